package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/logfile"
	"github.com/berth-engine/berth/internal/monitor"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Attach connects a client to a container's streams. A container that has not been started yet takes the client along
// when it is. Attach returns once the connection is in the hands of the monitor, which serves it from then on without
// this process: the stream goes on when the daemon ends.
func (e *Engine) Attach(ctx context.Context, ref string, o AttachOptions, open Opener) error {
	rec, err := e.Containers.Get(ref)
	if err != nil {
		return err
	}
	keys, err := detachKeys(o.DetachKeys)
	if err != nil {
		return err
	}
	if rec.State.Status == container.Paused && o.Stream {
		return fmt.Errorf("container %s is paused, unpause the container before attach%w", ref, kind{errdefs.ErrConflict})
	}
	if rec.State.Status == container.Restarting && o.Stream {
		return fmt.Errorf("container %s is restarting, wait until the container is running%w", ref, kind{errdefs.ErrConflict})
	}
	l := e.live(rec.ID)
	arrived := l.expect()
	defer arrived()
	conn, buffered, err := open()
	if err != nil {
		return err
	}
	if o.Logs {
		arrived() // what it has written can take as long as the client likes
		if err := e.sendLogs(ctx, rec, o, conn); err != nil || !o.Stream {
			return errors.Join(err, conn.Close())
		}
	}
	if !o.Stream {
		return conn.Close()
	}
	tty := rec.Config.Process.Tty
	stream, err := handOver(conn, buffered)
	if err != nil {
		return err
	}
	ao := monitor.AttachOptions{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Mux: !tty}
	if o.Stdin {
		ao.DetachKeys = keys
	}
	e.publish(rec, "attach", nil)

	l.mu.Lock()
	c := l.client
	if c == nil && (rec.State.Status == container.Created || rec.State.Status == container.Exited) {
		l.waiting = append(l.waiting, monitor.AttachStream{Conn: stream, Options: ao})
		l.mu.Unlock()
		if _, err := e.Containers.Get(rec.ID); err != nil { // removed meanwhile: whoever did may have looked before
			e.forgetLive(rec.ID)
			return err
		}
		return nil
	}
	l.mu.Unlock()
	defer stream.Close()
	if c == nil {
		return nil // it has just ended: the closed stream tells
	}
	if _, err := c.Attach(ctx, stream, ao); err != nil {
		return fmt.Errorf("attach to container %q: %w", rec.Name, err)
	}
	return nil
}

// sendLogs writes what the container has written so far, in the framing of the attach protocol.
func (e *Engine) sendLogs(ctx context.Context, rec container.Record, o AttachOptions, conn net.Conn) error {
	ro := logfile.ReadOptions{Tail: -1, Stdout: o.Stdout, Stderr: o.Stderr}
	return e.readLogs(ctx, rec, ro, func(en logfile.Entry) error {
		out := en.Line
		if !rec.Config.Process.Tty {
			out = frame(en.Stream, out)
		}
		_, err := conn.Write(out)
		return err
	})
}

// frame puts Docker's eight-byte header before a piece of output (API documentation, "Stream format").
func frame(stream logfile.Stream, p []byte) []byte {
	n := len(p)
	h := make([]byte, 8, 8+n)
	h[0] = byte(stream)
	h[4], h[5], h[6], h[7] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return append(h, p...)
}

// handOver turns a connection into a file descriptor for the monitor. A plain socket is handed over itself; one that this
// process must decrypt or has already read from is copied through a pair of sockets.
func handOver(conn net.Conn, buffered []byte) (*os.File, error) {
	if len(buffered) == 0 {
		if f, ok := conn.(interface{ File() (*os.File, error) }); ok {
			file, err := f.File()
			return file, errors.Join(err, conn.Close())
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a pair of sockets: %w", err), conn.Close())
	}
	far := os.NewFile(uintptr(pair[0]), "attach stream")
	nearFile := os.NewFile(uintptr(pair[1]), "attach stream")
	near, err := net.FileConn(nearFile)
	_ = nearFile.Close()
	if err != nil {
		return nil, errors.Join(err, far.Close(), conn.Close())
	}
	go func() {
		_, _ = near.Write(buffered)
		_, _ = io.Copy(near, conn)
		closeWrite(near)
	}()
	go func() {
		_, _ = io.Copy(conn, near)
		closeWrite(conn)
		// The client may keep its side open for ever; the container's end of the stream is over.
		_ = conn.SetReadDeadline(time.Now().Add(undoTime))
		_ = near.Close()
		_ = conn.Close()
	}()
	return far, nil
}

func closeWrite(c net.Conn) {
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
	}
}

// detached is told when a client typed its detach keys.
func (e *Engine) detached(id, execID string) {
	rec, err := e.Containers.Get(id)
	if err != nil {
		return
	}
	if execID != "" {
		e.publish(rec, "exec_detach", map[string]string{"execID": execID})
		return
	}
	e.publish(rec, "detach", nil)
}
