package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/berth-engine/berth/internal/sdbus"
	"golang.org/x/sys/unix"
)

const (
	unitFile = "unit"
	// keepVerb is no command for people: a process that waits for the end of its standard input. systemd ends a scope without
	// processes, so one keeps it until the container's own is in it.
	keepVerb = "keep-scope"
)

// scope reads a cgroup path of systemd's form, "slice:prefix:name": the scope is prefix-name.scope. A slice alone, which "podman build
// --cgroup-parent" hands on as it is, is where a scope of ours goes.
func scope(text, id string) (slice, unit string, err error) {
	switch {
	case text == "":
		text = ":berth:" + id
	case strings.HasSuffix(text, ".slice") && !strings.Contains(text, ":"):
		text += ":berth:" + id
	}
	part := strings.Split(text, ":")
	if len(part) != 3 {
		return "", "", invalid("cgroup path %q is not \"slice:prefix:name\", as --systemd-cgroup wants it", text)
	}
	slice, unit = part[0], part[2]
	if part[1] != "" {
		unit = part[1] + "-" + unit
	}
	switch {
	case part[2] == "":
		return "", "", invalid("cgroup path %q has no name after the last colon", text)
	case strings.HasSuffix(unit, ".slice"):
		return "", "", invalid("cgroup path %q names a slice, which holds no processes; name a scope in it", text)
	case slice != "" && (!strings.HasSuffix(slice, ".slice") || !unitName(slice)):
		return "", "", invalid("cgroup path %q: %q is not the name of a slice, as \"machine.slice\" is", text, slice)
	case !strings.HasSuffix(unit, ".scope"):
		unit += ".scope"
	}
	if !unitName(unit) {
		return "", "", invalid("cgroup path %q: %q cannot be a unit's name", text, unit)
	}
	return slice, unit, nil
}

// unitName accepts the names of systemd.unit(5).
func unitName(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(":_.-@\\", rune(c)) {
			return false
		}
	}
	return len(name) <= 255 && name[0] != '.'
}

// systemd calls fn with a connection: to the machine's, or to the one of an ordinary user's session.
func systemd(fn func(s *sdbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), sdbus.Timeout)
	defer cancel()
	dial := sdbus.Dial
	if notRoot() {
		dial = func(ctx context.Context) (*sdbus.Conn, error) {
			return sdbus.DialUser(ctx, ocirun.Owner(), os.Getenv("XDG_RUNTIME_DIR"))
		}
	}
	s, err := dial(ctx)
	if err != nil {
		return err
	}
	return errors.Join(fn(s), s.Close())
}

// makeScope has systemd make the container's group. It lives until release is called and the container's processes have ended.
func (n *creation) makeScope(host *cgroup.Host) (g *cgroup.Group, release func(), err error) {
	slice, unit, err := scope(n.spec.Linux.CgroupsPath, n.id)
	if err != nil {
		return nil, nil, err
	}
	if slice == "" && notRoot() { // a user's has no system.slice
		slice = "user.slice"
	}
	err = systemd(func(s *sdbus.Conn) (err error) {
		pid, end, err := keepScope()
		if err != nil {
			return fmt.Errorf("start the process that keeps unit %q: %w", unit, err)
		}
		release = end
		var warnings []string
		g, warnings, err = host.StartScope(s, unit, slice, pid, withDefaultDevices(n.spec.Linux.Resources))
		n.c.warn(warnings)
		// The unit first: of one whose group is removed by somebody else, systemd may not notice the end.
		if err == nil {
			err = os.Symlink(unit, filepath.Join(n.dir, unitFile))
		}
		if err == nil {
			err = os.Symlink(g.Path(), filepath.Join(n.dir, groupMade))
		}
		return err
	})
	if err != nil && release != nil {
		release() // which ends the scope, if it came to be
	}
	return g, release, err
}

// keepScope starts this program as the process that keeps a scope. It ends with release, or with us.
func keepScope() (pid int, release func(), err error) {
	cmd := exec.Command("/proc/self/exe", keepVerb)
	cmd.Args[0] = "berth-runtime"
	cmd.Dir, cmd.Env = "/", []string{}
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, nil, err
	}
	if err := cmd.Start(); err != nil {
		return 0, nil, errors.Join(err, in.Close())
	}
	return cmd.Process.Pid, func() {
		_ = in.Close()
		_ = cmd.Wait()
	}, nil
}

// keep is keepVerb.
func keep() int {
	if err := unix.Setpgid(0, 0); err != nil { // a terminal's ^C is not for it
		return 1
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return 1
	}
	return 0
}

// unitOf is the unit of the container in dir, "" for one whose group is not systemd's.
func unitOf(dir string) (string, error) {
	unit, err := os.Readlink(filepath.Join(dir, unitFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return unit, err
}

// stopUnit ends the unit of the container in dir, if it has one. Its processes have been killed.
func stopUnit(dir string) error {
	unit, err := unitOf(dir)
	if err != nil || unit == "" {
		return err
	}
	return systemd(func(s *sdbus.Conn) error { return s.Stop(unit) })
}
