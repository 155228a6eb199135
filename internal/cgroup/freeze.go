package cgroup

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Freeze stops all processes of the group and returns when the kernel says that the last one stands still. When ctx
// ends before, the group is thawed again. Processes in an uninterruptible wait can delay it.
func (g *Group) Freeze(ctx context.Context) error {
	err := g.freezer(ctx, true)
	if err != nil {
		if terr := g.freezer(context.WithoutCancel(ctx), false); terr != nil && !gone(terr) {
			err = errors.Join(err, terr)
		}
		return fmt.Errorf("freeze cgroup %q: %w", g.path, err)
	}
	return nil
}

// Thaw lets the processes of a frozen group go on. Thawing a group that is not frozen is not an error.
func (g *Group) Thaw(ctx context.Context) error {
	if err := g.freezer(ctx, false); err != nil {
		return fmt.Errorf("thaw cgroup %q: %w", g.path, err)
	}
	return nil
}

func (g *Group) freezer(ctx context.Context, freeze bool) error {
	if err := g.notRoot("freeze"); err != nil {
		return err
	}
	if g.host.version == 2 {
		dir := g.dir(&g.host.trees[0])
		value := "0"
		if freeze {
			value = "1"
		}
		if err := writeFile(dir+"/cgroup.freeze", value); err != nil {
			return err
		}
		return waitEvent(ctx, dir, "frozen "+value)
	}
	t := g.host.tree("freezer")
	if t == nil {
		return errors.New("the freezer controller is not available on this host")
	}
	file := g.dir(t) + "/freezer.state"
	if !freeze {
		return writeFile(file, "THAWED") // at once
	}
	return freezeV1(ctx, file)
}

// freezeV1 freezes and waits. Processes freeze themselves as soon as they run, usually within microseconds, but v1
// has no event for the last one. A fork that was under way while freezing is caught by writing the state again.
func freezeV1(ctx context.Context, file string) error {
	var timer *time.Timer
	for n := 0; ; n++ {
		if err := writeFile(file, "FROZEN"); err != nil {
			return err
		}
		state, err := readLine(file)
		if err != nil {
			return err
		}
		if state == "FROZEN" {
			return nil
		}
		if n < 50 {
			// Those who shall freeze may be waiting for this very processor.
			unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			runtime.Gosched()
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		}
		pause := min(time.Duration(n-49)*100*time.Microsecond, 10*time.Millisecond)
		if timer == nil {
			timer = time.NewTimer(pause)
			defer timer.Stop()
		} else {
			timer.Reset(pause)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// waitEvent waits until the cgroup.events of a v2 group has the line want. The kernel wakes whoever polls the file for
// POLLPRI when it changes.
func waitEvent(ctx context.Context, dir, want string) error {
	fd, err := open(dir+"/cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	stop, release, err := cancelFile(ctx)
	if err != nil {
		return err
	}
	defer release()
	buf := make([]byte, 256)
	for {
		n, err := unix.Pread(fd, buf, 0)
		if err != nil && err != unix.EINTR {
			return err
		}
		for line := range strings.Lines(string(buf[:max(n, 0)])) {
			if strings.TrimSpace(line) == want {
				return nil
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}, {Fd: int32(stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return err
		}
	}
}

// cancelFile gives a descriptor that becomes readable when ctx ends, -1 when it never does.
func cancelFile(ctx context.Context) (fd int, release func(), err error) {
	if ctx.Done() == nil {
		return -1, func() {}, nil
	}
	fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, nil, err
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		close(done)
	})
	return fd, func() {
		if !stop() {
			<-done // it is writing: the descriptor must still be ours
		}
		unix.Close(fd)
	}, nil
}

// Frozen tells whether all processes of the group stand still, whoever froze it or a group above it. On a host without a
// freezer none does.
func (g *Group) Frozen() (bool, error) {
	if g.host.version == 2 {
		n, _, err := readPair(g.dir(&g.host.trees[0])+"/cgroup.events", "frozen")
		if err != nil {
			return false, fmt.Errorf("ask whether cgroup %q is frozen: %w", g.path, err)
		}
		return n != 0, nil
	}
	t := g.host.tree("freezer")
	if t == nil {
		return false, nil
	}
	state, err := readLine(g.dir(t) + "/freezer.state")
	if err != nil {
		return false, fmt.Errorf("ask whether cgroup %q is frozen: %w", g.path, err)
	}
	return state == "FROZEN", nil
}
