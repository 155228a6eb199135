// A life this short needs no look at the CPUs its cgroup allows, at its start or later: that reads three files and costs a goroutine.
//go:debug updatemaxprocs=0
//go:debug containermaxprocs=0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// call is one invocation of a command: its name, what follows it, and where it reads and writes.
type call struct {
	name string
	args []string
	in   io.Reader
	out  *bufio.Writer // flushed when the command returns; long-lived commands flush as they go
	err  io.Writer
}

// fail prints "NAME: message" and returns 1, the exit code of an ordinary failure.
func (c *call) fail(format string, args ...any) int {
	c.out.Flush()
	fmt.Fprintf(c.err, "%s: %s\n", c.name, fmt.Sprintf(format, args...))
	return 1
}

// usage prints what was wrong with the arguments and returns 2.
func (c *call) usage(format string, args ...any) int {
	c.fail(format, args...)
	return 2
}

// report prints err the way Unix tools do ("cat: /x: no such file or directory") and returns 1; nil is 0.
func (c *call) report(err error) int {
	if err == nil {
		return 0
	}
	return c.fail("%s", sentence(err))
}

// sentence leaves the operation out of a path error: "open /x: no such file" is read as "/x: no such file".
func sentence(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Path + ": " + pe.Err.Error()
	}
	return err.Error()
}

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	login := strings.HasPrefix(name, "-") // a login shell is called "-sh"
	name = strings.TrimPrefix(name, "-")
	if name == "box" || name == "berth-box" {
		if len(args) == 0 {
			fmt.Fprintln(os.Stderr, "usage: box NAME [ARGUMENT...]; box --list prints the names")
			os.Exit(2)
		}
		name, args = args[0], args[1:]
	}
	// The two commands benchmarks and scripts start by the thousand need nothing of what follows.
	switch name {
	case "true":
		return
	case "false":
		os.Exit(1)
	case "--list":
		for _, n := range names() {
			fmt.Println(n)
		}
		return
	case "--rootfs":
		os.Exit(writeRootfs(args))
	case "sh", "bash":
		os.Exit(shell(args, login))
	}
	run, ok := find(name)
	if !ok {
		fmt.Fprintf(os.Stderr, "box: %s: no such command\n", name)
		os.Exit(127)
	}
	if os.Getpid() == 1 {
		endOnSignals()
	}
	c := &call{name: name, args: args, in: os.Stdin, out: bufio.NewWriter(os.Stdout), err: os.Stderr}
	code := run(c)
	if err := c.out.Flush(); err != nil && code == 0 {
		code = 1
		if !errors.Is(err, syscall.EPIPE) {
			fmt.Fprintf(os.Stderr, "%s: write error: %v\n", name, err)
		}
	}
	os.Exit(code)
}

// endOnSignals makes process 1 end on the signals that would end any other process.
func endOnSignals() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, initSignals()...)
	go func() {
		for sig := range ch {
			if endsInit(sig) {
				os.Exit(128 + int(sig.(syscall.Signal)))
			}
		}
	}()
}
