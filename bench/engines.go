package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// engine is one contestant: how it is started and stopped, and the command line that drives it. All speak Docker's.
type engine struct {
	name, title, version string
	dead                 bool
	*room
	client  []string // command with its global flags
	env     []string
	remove  []string // the command that removes by force and at once
	keeper  string   // part of the path of the program that stays with each container
	daemons []*daemon
	cgroup  string
	idle    float64 // MB of the daemons, fresh
	setUp   func(e *engine) error
}

func (e *engine) begin() error {
	var err error
	if e.room, err = newRoom(); err != nil {
		return err
	}
	return e.setUp(e)
}

// cli runs one command of the engine.
func (e *engine) cli(args ...string) (time.Duration, error) {
	return e.run(e.env, slices.Concat(e.client, args)...)
}

// end removes what is left and stops the daemons.
func (e *engine) end() {
	if e.room == nil {
		return
	}
	if ids, err := e.output(e.env, slices.Concat(e.client, []string{"ps", "-aq"})...); err == nil && ids != "" {
		_, _ = e.cli(slices.Concat(e.remove, strings.Fields(ids))...) // the folder goes anyway
	}
	for _, d := range slices.Backward(e.daemons) {
		d.stop()
	}
	e.killKeepers()
	removeCgroups(e.cgroup)
	e.do(func() {}) // the thread is idle
	close(e.work)
	e.room = nil
}

// killKeepers ends the shims of containers that could not be removed, found by their folder.
func (e *engine) killKeepers() {
	for _, p := range processes() {
		if slices.ContainsFunc(p.args, func(a string) bool {
			return strings.Contains(a, "/berth-bench-") && strings.Contains(a, "/"+e.name+"/")
		}) &&
			strings.Contains(p.exe, e.keeper) {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
}

// removeCgroups removes the folders of our cgroup in every hierarchy, the deepest first.
func removeCgroups(name string) {
	if name == "" {
		return
	}
	var dirs []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return fs.SkipDir
		}
		if d.IsDir() && strings.Contains(path, name) {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, d := range slices.Backward(dirs) {
		_ = syscall.Rmdir(d) // one that is busy stays and is seen by whoever looks
	}
}

func newBerth(b *bench) *engine {
	dir := filepath.Join(b.dir, "berth")
	run := filepath.Join(b.state, "berth")
	sock := filepath.Join(run, "berth.sock")
	e := &engine{name: "berth", title: "Berth", remove: []string{"rm", "-f"}, keeper: "berth-runtime", cgroup: fmt.Sprintf("/bench-berth-%d", os.Getpid()),
		client: []string{repo("bin/berth")}, env: []string{"DOCKER_HOST=unix://" + sock, "BERTH_HOST=unix://" + sock}}
	e.setUp = func(e *engine) error {
		if _, err := os.Stat(repo("bin/berthd")); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
		d, err := e.daemon(filepath.Join(dir, "log"), nil, repo("bin/berthd"), "--data-root", filepath.Join(dir, "data"),
			"--exec-root", run, "--bridge", "benchb", "--bip", "10.214.1.1/24", "--cgroup-parent", e.cgroup)
		if err != nil {
			return err
		}
		e.daemons = append(e.daemons, d)
		if err := d.ready(func() error { _, err := e.cli("ps"); return err }); err != nil {
			return err
		}
		e.version, _ = e.output(e.env, slices.Concat(e.client, []string{"version", "--format", "{{.Server.Version}}"})...)
		return e.settle(b)
	}
	return e
}

// repo finds a file of the repository, whose root bench is started in.
func repo(name string) string {
	abs, err := filepath.Abs(name)
	if err != nil {
		return name
	}
	return abs
}

// settle waits for a fresh daemon to come to rest, notes its memory, and gives it the image.
func (e *engine) settle(b *bench) error {
	time.Sleep(2 * time.Second)
	for _, d := range e.daemons {
		e.idle += pss(d.cmd.Process.Pid)
	}
	_, err := e.cli("import", b.image, "bench:1")
	return err
}

// dockerWith is Docker on a subnet, with more flags for its daemon.
func dockerWith(name, title, bip string, flags ...string) func(*bench) *engine {
	return func(b *bench) *engine { return newDocker(b, name, title, bip, flags) }
}

func newDocker(b *bench, name, title, bip string, flags []string) *engine {
	dir := filepath.Join(b.dir, name)
	sock, csock := filepath.Join(dir, "docker.sock"), filepath.Join(dir, "containerd.sock")
	e := &engine{name: name, title: title, remove: []string{"rm", "-f"}, keeper: "containerd-shim", cgroup: fmt.Sprintf("/bench-%s-%d", name, os.Getpid()),
		client: []string{"/usr/bin/docker"}, env: []string{"DOCKER_HOST=unix://" + sock, "DOCKER_CONFIG=" + dir}}
	e.setUp = func(e *engine) error {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
		dockerd, err := exec.LookPath("dockerd")
		if err != nil {
			return err
		}
		containerd, err := exec.LookPath("containerd")
		if err != nil {
			return err
		}
		config := filepath.Join(dir, "containerd.toml")
		if err := os.WriteFile(config, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o644); err != nil {
			return err
		}
		c, err := e.daemon(filepath.Join(dir, "containerd.log"), nil, containerd, "--config", config, "--root", filepath.Join(dir, "containerd"),
			"--state", filepath.Join(b.state, name+"-containerd"), "--address", csock)
		if err != nil {
			return err
		}
		e.daemons = append(e.daemons, c)
		if err := c.ready(func() error { _, err := os.Stat(csock); return err }); err != nil {
			return fmt.Errorf("containerd: %w", err)
		}
		args := []string{dockerd, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(b.state, name),
			"--pidfile", filepath.Join(dir, "pid"), "-H", "unix://" + sock, "--containerd", csock, "--storage-driver", "overlay2",
			"--bip", bip, "--cgroup-parent", e.cgroup}
		d, err := e.daemon(filepath.Join(dir, "log"), nil, slices.Concat(args, flags)...)
		if err != nil {
			return err
		}
		e.daemons = append(e.daemons, d)
		if err := d.ready(func() error { _, err := e.cli("ps"); return err }); err != nil {
			return fmt.Errorf("dockerd: %w", err)
		}
		e.version, _ = e.output(e.env, slices.Concat(e.client, []string{"version", "--format", "{{.Server.Version}}"})...)
		return e.settle(b)
	}
	return e
}

func newPodman(b *bench) *engine {
	dir := filepath.Join(b.dir, "podman")
	e := &engine{name: "podman", title: "Podman", remove: []string{"rm", "-f", "-t", "0"}, keeper: "conmon", cgroup: fmt.Sprintf("/bench-podman-%d", os.Getpid())}
	e.client = []string{"/usr/bin/podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(b.state, "podman"),
		"--tmpdir", filepath.Join(dir, "tmp"), "--network-config-dir", filepath.Join(dir, "net"), "--cgroup-manager", "cgroupfs",
		"--events-backend", "none", "--storage-driver", "overlay", "--runtime", "crun"}
	e.setUp = func(e *engine) error {
		if err := os.MkdirAll(filepath.Join(dir, "net"), 0o711); err != nil {
			return err
		}
		// crun refuses a hybrid machine whose unified hierarchy holds controllers: in this room it is not seen. Limits of
		// open files and processes as here, because the default is above what a confined root may set.
		var err error
		e.do(func() {
			if err = unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				err = nil
			}
		})
		if err != nil {
			return err
		}
		config := filepath.Join(dir, "containers.conf")
		e.env = append(e.env, "CONTAINERS_CONF="+config)
		if err := os.WriteFile(config, []byte("[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"), 0o644); err != nil {
			return err
		}
		if _, err := e.cli("import", b.image, "bench:1"); err != nil {
			return err
		}
		e.version, _ = e.output(e.env, slices.Concat(e.client, []string{"version", "--format", "{{.Client.Version}}"})...)
		return nil
	}
	return e
}
