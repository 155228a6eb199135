package main

import (
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// traps holds what `trap` was told about signals. EXIT and ERR stay with the interpreter. A caught signal is only
// noted when it comes; its code runs before the next simple command of the main shell, as POSIX has it, and it
// ends a `wait`.
type traps struct {
	mu      sync.Mutex
	code    map[syscall.Signal]string
	pending []syscall.Signal
	wake    chan struct{} // holds one token while something is pending
	ch      chan os.Signal
	init    bool // process 1: signals without a trap end the shell
}

// start begins listening; called with mu held.
func (t *traps) start() {
	if t.ch != nil {
		return
	}
	t.ch = make(chan os.Signal, 16)
	t.wake = make(chan struct{}, 1)
	t.code = map[syscall.Signal]string{}
	go func() {
		for sig := range t.ch {
			t.arrive(sig.(syscall.Signal))
		}
	}()
}

// arrive notes one signal, or, in process 1 without a trap for it, ends the shell.
func (t *traps) arrive(sig syscall.Signal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.code[sig]; !ok {
		if t.init && endsInit(sig) {
			os.Exit(128 + int(sig))
		}
		return
	}
	t.pending = append(t.pending, sig)
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// watchInit makes process 1 end on the signals that would end any other process.
func (t *traps) watchInit() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.start()
	t.init = true
	signal.Notify(t.ch, initSignals()...)
}

// initSignals are those process 1 catches: the kernel would drop them there, but the Go runtime ends the program.
func initSignals() []os.Signal {
	return []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGALRM, syscall.SIGIO, syscall.SIGPWR}
}

// endsInit tells the signals by which people stop a program; process 1 gives in to them, the others it drops.
func endsInit(sig os.Signal) bool {
	switch sig {
	case syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGINT:
		return true
	}
	return false
}

// arrived is ready while a trapped signal waits for its code to run; nil (never ready) without traps.
func (t *traps) arrived() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wake
}

// next takes the oldest pending signal's code.
func (t *traps) next() (code string, sig syscall.Signal, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 {
		return "", 0, false
	}
	sig = t.pending[0]
	t.pending = t.pending[1:]
	if len(t.pending) == 0 {
		select {
		case <-t.wake:
		default:
		}
	}
	return t.code[sig], sig, true
}

// any tells whether some trap is set; a shell with traps must not replace itself by its last command.
func (t *traps) any() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.code) > 0
}

// caught lists the signals this shell listens to.
func (t *traps) caught() []os.Signal {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []os.Signal{syscall.SIGCHLD}
	if t.init {
		list = append(list, initSignals()...)
	}
	for sig := range t.code {
		list = append(list, sig)
	}
	return list
}

// set handles `trap CODE SIGNAL…`. It returns what the interpreter's own trap is still to do.
func (t *traps) set(args []string) ([]string, error) {
	if len(args) < 2 || args[1] == "-l" || args[1] == "-p" {
		return args, nil
	}
	operands := args[1:]
	if operands[0] == "--" {
		operands = operands[1:]
	}
	code, names := "-", operands
	if len(operands) > 1 {
		code, names = operands[0], operands[1:]
	}
	rest := []string{"trap", code}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.start()
	for _, name := range names {
		sig := signalNumber(name)
		if sig == 0 {
			if name == "0" {
				name = "EXIT"
			}
			rest = append(rest, name) // EXIT, ERR, or an error for the interpreter to report
			continue
		}
		switch code {
		case "-":
			delete(t.code, sig)
			if !t.init {
				signal.Reset(sig)
			}
		case "":
			delete(t.code, sig)
			signal.Ignore(sig)
		default:
			t.code[sig] = code
			signal.Notify(t.ch, sig)
		}
	}
	if len(rest) == 2 {
		return []string{"true"}, nil
	}
	return rest, nil
}

// signalNumber reads "TERM", "SIGTERM" or "15"; 0 is no signal.
func signalNumber(s string) syscall.Signal {
	if n := number(s); n > 0 && n < 65 {
		return syscall.Signal(n)
	}
	s = strings.ToUpper(s)
	if !strings.HasPrefix(s, "SIG") {
		s = "SIG" + s
	}
	return unix.SignalNum(s)
}

// number reads a non-negative decimal number; -1 is no number.
func number(s string) int {
	if s == "" || len(s) > 9 {
		return -1
	}
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// deafToInterrupt keeps an interactive shell that is process 1 alive when a key interrupts its command.
func (t *traps) deafToInterrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.start()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		t.code[sig] = ":"
		signal.Notify(t.ch, sig)
	}
}
