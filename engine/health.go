package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/monitor"
	"golang.org/x/sys/unix"
)

// Docker's defaults for a health check.
const (
	healthInterval      = 30 * time.Second
	healthTimeout       = 30 * time.Second
	healthStartInterval = 5 * time.Second
	healthOutput        = 4096 // bytes kept of a probe's output
)

// startHealth runs the container's health check until the container ends.
func (e *Engine) startHealth(l *live, id string, c *monitor.Client) {
	rec, err := e.Containers.Get(id)
	if err != nil || rec.Config.Health == nil || len(rec.Config.Health.Test) == 0 || rec.Config.Health.Test[0] == "NONE" {
		return
	}
	ctx, cancel := context.WithCancel(e.ctx)
	l.mu.Lock()
	l.health = cancel
	l.mu.Unlock()
	if !e.background(func() { e.probe(ctx, rec) }) {
		cancel()
	}
}

func (e *Engine) probe(ctx context.Context, rec container.Record) {
	h := *rec.Config.Health
	orElse := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	orElse(&h.Interval, healthInterval)
	orElse(&h.Timeout, healthTimeout)
	orElse(&h.StartInterval, healthStartInterval)
	started := time.Now()
	for {
		wait := h.Interval
		grace := time.Since(started) < h.StartPeriod
		if now, err := e.Containers.Get(rec.ID); err == nil && now.State.Health != nil &&
			now.State.Health.Status == "starting" && grace {
			wait = min(h.StartInterval, h.Interval)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		now, err := e.Containers.Get(rec.ID)
		if err != nil || !now.State.Alive() {
			return
		}
		if now.State.Status == container.Paused {
			continue
		}
		p := e.runProbe(ctx, now, h)
		if ctx.Err() != nil {
			return
		}
		e.apply(rec.ID, container.HealthProbed{Probe: p, Healthy: p.ExitCode == 0, Grace: time.Since(started) < h.StartPeriod})
	}
}

// runProbe runs the check once as an exec of its own, which no client sees.
func (e *Engine) runProbe(ctx context.Context, rec container.Record, h container.Health) container.HealthProbe {
	p := container.HealthProbe{Start: time.Now().UTC(), ExitCode: -1}
	argv := h.Test[1:]
	if h.Test[0] == "CMD-SHELL" {
		shell := rec.Config.Extra.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		argv = append(append([]string(nil), shell...), h.Test[1:]...)
	}
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	code, out, err := e.Execs.output(ctx, rec.ID, argv)
	p.End, p.Output = time.Now().UTC(), out
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		p.Output = "Health check exceeded timeout (" + h.Timeout.String() + ")" + prefixed(out)
	case err != nil:
		p.Output = err.Error()
	default:
		p.ExitCode = code
	}
	return p
}

func prefixed(out string) string {
	if out == "" {
		return ""
	}
	return ": " + out
}

// output runs argv in a container and returns its exit code and the beginning of its output. When ctx ends first, the
// process is killed.
func (x *Execs) output(ctx context.Context, id string, argv []string) (int, string, error) {
	execID, err := x.Create(ctx, id, ExecConfig{Argv: argv, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, "", err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, "", err
	}
	nearFile, farFile := os.NewFile(uintptr(pair[0]), "probe"), os.NewFile(uintptr(pair[1]), "probe")
	near, err1 := net.FileConn(nearFile)
	far, err2 := net.FileConn(farFile)
	_, _ = nearFile.Close(), farFile.Close()
	if err := errors.Join(err1, err2); err != nil {
		return 0, "", err
	}
	defer near.Close()
	x.mu.Lock()
	ex := x.byID[execID]
	if ex == nil { // the container has been removed
		x.mu.Unlock()
		return 0, "", noExec(execID)
	}
	ex.private = true
	x.mu.Unlock()
	if err := x.Start(ctx, execID, ExecStartOptions{}, func() (net.Conn, []byte, error) { return far, nil, nil }); err != nil {
		_ = far.Close()
		return 0, "", err
	}
	var mu sync.Mutex
	var text bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		var h [8]byte
		for {
			if _, err := io.ReadFull(near, h[:]); err != nil {
				return
			}
			n := int64(binary.BigEndian.Uint32(h[4:]))
			piece, err := io.ReadAll(io.LimitReader(near, n))
			mu.Lock()
			text.Write(piece[:min(len(piece), max(0, healthOutput-text.Len()))])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	select {
	case <-ex.over:
		<-read // the monitor closes the stream before it tells the exit
		x.mu.Lock()
		defer x.mu.Unlock()
		return *ex.rec.ExitCode, text.String(), nil
	case <-ctx.Done():
		if _, c, err := x.e.running(id); err == nil {
			killCtx, cancel := undoContext(ctx)
			defer cancel()
			_ = c.SignalExec(killCtx, execID, int(unix.SIGKILL)) // it may be over by now
		}
		_ = near.Close()
		<-read
		mu.Lock()
		defer mu.Unlock()
		return 0, text.String(), ctx.Err()
	}
}
