package monitor

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/logfile"
	"golang.org/x/sys/unix"
)

// check refuses what is no way to log.
func (c *LogConfig) check() error {
	switch {
	case c.Driver == "none":
		return nil
	case c.Driver != "json-file":
		return fmt.Errorf("there is no log driver %q", c.Driver)
	case !strings.HasPrefix(c.Path, "/"):
		return fmt.Errorf("the path of the log, %q, is not absolute", c.Path)
	}
	return nil
}

// openLog opens the container's log. When it cannot be opened now the writer tries again with each line: a full disk
// keeps no container from running.
func (m *monitor) openLog() (err error) {
	if m.log.Driver == "none" {
		return nil
	}
	o := logfile.WriterOptions{Path: m.log.Path, MaxSize: m.log.MaxSize, MaxFile: m.log.MaxFile, Attrs: m.log.Attrs,
		Buffer: m.mem.log}
	if o.MaxSize == 0 {
		o.MaxSize = -1
	}
	if m.log.Compress {
		o.Rotating, o.Rotated = m.compressor.stop, m.compressor.begin
	}
	m.writer, err = logfile.OpenWriter(o)
	return err
}

// compressor is the process that compresses rotated files, while there is one. It is this program again: what it
// needs of memory goes with it.
type compressor struct {
	watched // its pidfd
	m       *monitor
}

func (c *compressor) begin() {
	c.stop()
	fd := -1
	_, err := syscall.ForkExec(c.m.rt.exe, []string{"berth-runtime", "monitor", verbCompress, c.m.log.Path},
		&syscall.ProcAttr{Env: smallEnv(), Files: []uintptr{2, 2, 2}, Sys: &syscall.SysProcAttr{PidFD: &fd, Pdeathsig: syscall.SIGKILL}})
	if err != nil || fd < 0 {
		c.m.complain(fmt.Errorf("compress the log %q: %w", c.m.log.Path, os.NewSyscallError("fork", err)))
		return
	}
	c.m.fat()
	c.fd = fd
	c.m.must(c.m.poll.want(&c.watched, c, unix.EPOLLIN))
}

func (c *compressor) ready(uint32) { c.reap() }

// stop ends it, so that it does not rename what is being rotated.
func (c *compressor) stop() {
	if c.fd >= 0 {
		_ = unix.PidfdSendSignal(c.fd, unix.SIGKILL, nil, 0)
		c.reap()
	}
}

func (c *compressor) reap() {
	f := borrow(c.fd, "pidfd")
	c.m.poll.forget(&c.watched)
	c.fd = -1
	_, _ = linux.WaitPidfd(f)
	f.Close()
}

// smallEnv is the environment of a Go program that shall be small and begin at once: it collects no garbage until that
// would be worth the work, runs Go code on one thread, and does not read the host's cgroups to find out how many.
func smallEnv() []string {
	return []string{"GOGC=off", "GOMEMLIMIT=16MiB", "GOMAXPROCS=1",
		"GODEBUG=disablethp=1,containermaxprocs=0,updatemaxprocs=0"}
}
