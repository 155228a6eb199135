package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// freezeToKill is how long v1 processes may take to stand still before they are killed moving.
	freezeToKill = 200 * time.Millisecond
	// dying is how long killed processes may take to be gone before Delete gives up: freeing a large memory takes a
	// while.
	dying = 10 * time.Second
	// rounds bounds the hunt after processes that fork while they are being killed.
	rounds = 100
)

// KillAll kills every process in the group and below it, however fast they fork, and returns without waiting for
// their end. A group that does not exist has nothing to kill.
func (g *Group) KillAll() error {
	if err := g.notRoot("kill"); err != nil {
		return err
	}
	if g.host.version == 2 {
		err := writeFile(g.dir(&g.host.trees[0])+"/cgroup.kill", "1")
		if err == nil {
			// Frozen processes of v2 die, too.
			return nil
		}
		if !gone(err) {
			return fmt.Errorf("kill cgroup %q: %w", g.path, err)
		}
		// Linux before 5.14 has no such file; or the group is gone, which the loop finds out.
	}
	if err := g.killEach(); err != nil {
		return fmt.Errorf("kill cgroup %q: %w", g.path, err)
	}
	return nil
}

// notRoot refuses to do something to every process of the machine. Create makes no such group: its name comes from a damaged file.
func (g *Group) notRoot(verb string) error {
	if g.path == "/" {
		return fmt.Errorf("%s the root of all cgroups: it is no container's: %w", verb, errdefs.ErrInvalidArgument)
	}
	return nil
}

// killEach kills one process after the other. They are frozen meanwhile, so that none can fork or hand its number
// on to a stranger; who cannot be frozen in time is killed all the same, over and over until nobody new turns up.
func (g *Group) killEach() error {
	pids, err := g.Pids()
	if err != nil || len(pids) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), freezeToKill)
	frozen := g.freezer(ctx, true) == nil
	cancel()
	killed := pids[:0:0]
	for range rounds {
		if pids, err = g.Pids(); err != nil {
			break
		}
		fresh := slices.DeleteFunc(pids, func(pid int) bool { return slices.Contains(killed, pid) })
		if len(fresh) == 0 {
			break
		}
		for _, pid := range fresh {
			if kerr := unix.Kill(pid, unix.SIGKILL); kerr != nil && kerr != unix.ESRCH {
				err = errors.Join(err, fmt.Errorf("process %d: %w", pid, kerr))
			}
		}
		killed = append(killed, fresh...)
		if frozen {
			break
		}
	}
	// v1's frozen processes take the signal when they are thawed. A group that is gone has thawed.
	if terr := g.freezer(context.Background(), false); terr != nil && !gone(terr) {
		err = errors.Join(err, terr)
	}
	return err
}

// Delete removes the group and the groups below it; one that does not exist is not an error. The processes must have
// been killed: those still on their way out are waited for (up to 10 s), others make it fail with EBUSY.
func (g *Group) Delete() error {
	if err := g.notRoot("remove"); err != nil {
		return err
	}
	var errs []error
	for _, t := range g.host.all() {
		if err := removeDir(g.dir(&t), t.v2); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func removeDir(dir string, v2 bool) error {
	err := unix.Rmdir(dir)
	if err == nil || gone(err) {
		return nil
	}
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("remove cgroup %q: %w", dir, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), dying)
	defer cancel()
	for range rounds {
		below, err := children(dir)
		if err != nil {
			return fmt.Errorf("remove cgroup %q: %w", dir, err)
		}
		for _, c := range below {
			if err := removeDir(c, v2); err != nil {
				return err
			}
		}
		err = unix.Rmdir(dir)
		if err == nil || gone(err) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove cgroup %q: %w", dir, err)
		}
		wait := waitEmpty
		if v2 {
			wait = func(ctx context.Context, dir string) error { return waitEvent(ctx, dir, "populated 0") }
		}
		if werr := wait(ctx, dir); werr != nil && !gone(werr) {
			return fmt.Errorf("remove cgroup %q: there are still processes in it: %w", dir, err)
		}
	}
	return fmt.Errorf("remove cgroup %q: somebody keeps using it: %w", dir, unix.EBUSY)
}

// Prune removes the group if nothing is in it, neither processes nor groups; otherwise the error wraps EBUSY. It is
// for parents that several may use at the same time.
func (g *Group) Prune() error {
	var errs []error
	for _, t := range g.host.all() {
		if err := unix.Rmdir(g.dir(&t)); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("remove cgroup %q: %w", g.dir(&t), err))
		}
	}
	return errors.Join(errs...)
}

// madeMark is set on a group that was made only because one below it was wanted.
const madeMark = "trusted.berth.made"

// PruneParents removes the groups above this one that Create made on its way to it, or to others, and in which nothing is left. Those
// that somebody else made stay, as does what cannot be told from them.
func (g *Group) PruneParents() {
	for _, t := range g.host.all() {
		for parent := path.Dir(g.path); parent != "/"; parent = path.Dir(parent) {
			dir := t.dir + parent
			if n, err := unix.Lgetxattr(dir, madeMark, nil); err != nil || n == 0 || unix.Rmdir(dir) != nil {
				break
			}
		}
	}
}

// waitEmpty waits for the end of the processes of a v1 group, which has no event of its own.
func waitEmpty(ctx context.Context, dir string) error {
	stop, release, err := cancelFile(ctx)
	if err != nil {
		return err
	}
	defer release()
	for {
		pid, err := firstPid(dir)
		if err != nil || pid == 0 {
			return err
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err == unix.ESRCH {
			continue
		}
		if err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
		_, err = unix.Poll(fds, -1)
		unix.Close(fd)
		if err != nil && err != unix.EINTR {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func firstPid(dir string) (int, error) {
	text, err := readFile(dir + "/cgroup.procs")
	if gone(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid := 0
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			break
		}
		pid = pid*10 + int(c-'0')
	}
	return pid, nil
}
