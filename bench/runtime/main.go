// Runtime measures berth-runtime alone, beside crun, runc and the kernel's own floor, and writes one table. It is a benchmark and no
// test: nothing fails on a time.
//
// All get the same bundle: Debian's static busybox, and the specification that Docker writes for a container without options, with
// its seccomp profile, capabilities, masked paths, a cgroup with limits and five namespaces. They are measured in turns, since the
// machine is noisier from minute to minute than they differ; medians are shown, and ratios within one run are what counts.
//
//	go run ./bench/runtime [-rounds 40] [-starts 1000] [-o bench/RUNTIME.md]
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func main() {
	rounds := flag.Int("rounds", 40, "rounds of run and of exec")
	starts := flag.Int("starts", 1000, "starts whose slowest is compared with their median")
	out := flag.String("o", "", "file to write the table to, besides standard output")
	flag.Parse()
	b := &bench{rounds: *rounds, starts: *starts, times: map[string][]float64{}}
	text, err := b.run()
	if err := errors.Join(err, b.close()); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
	fmt.Print(text)
	if *out != "" {
		if err := os.WriteFile(*out, []byte(text), 0o644); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			os.Exit(1)
		}
	}
}

// bench is one run.
type bench struct {
	rounds, starts int
	dir, rootfs    string
	states         string // on a tmpfs, as /run is
	group          string
	contestants    []contestant
	times          map[string][]float64 // ms, by "what name"
}

// contestant is a runtime: its command with global flags.
type contestant struct {
	name    string
	command []string
}

func (b *bench) run() (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("needs root")
	}
	if err := withoutHybrid(); err != nil {
		return "", err
	}
	if err := b.prepare(); err != nil {
		return "", err
	}
	for i, c := range slices.Backward(b.contestants) {
		if err := b.call(c, "run", "-d", "-b", b.bundle("sleep-"+c.name), "sleeper"); err != nil {
			if i == 0 {
				return "", err
			}
			fmt.Fprintf(os.Stderr, "bench: left out: %v\n", err)
			b.contestants = slices.Delete(b.contestants, i, i+1)
			continue
		}
	}
	floor := []string{"unshare", "-m", "-p", "-n", "-u", "-i", "-f", "--mount-proc", "chroot", b.rootfs, "/bin/true"}
	for i := range b.rounds {
		if err := b.time("run floor", floor...); err != nil {
			return "", err
		}
		for _, c := range b.contestants {
			if err := b.time("run "+c.name, slices.Concat(c.command, []string{"run", "-b", b.bundle("true"), fmt.Sprintf("r%d", i)})...); err != nil {
				return "", err
			}
			if err := b.time("exec "+c.name, slices.Concat(c.command, []string{"exec", "sleeper", "/bin/true"})...); err != nil {
				return "", err
			}
		}
	}
	berth := b.contestants[0]
	for i := range b.starts {
		if err := b.time("start berth-runtime", slices.Concat(berth.command, []string{"run", "-b", b.bundle("true"), fmt.Sprintf("s%d", i)})...); err != nil {
			return "", err
		}
	}
	return b.report()
}

// withoutHybrid takes away the second hierarchy of hosts that have cgroup v1 and v2, of which crun will know nothing. It is taken from
// this thread's mounts, where all commands are started.
func withoutHybrid() error {
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified); err != nil {
		return nil
	}
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNS | syscall.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return os.NewSyscallError("umount", syscall.Unmount(unified, syscall.MNT_DETACH))
}

func (b *bench) prepare() (err error) {
	if b.dir, err = os.MkdirTemp("", "berth-bench-runtime-"); err != nil {
		return err
	}
	if b.states, err = os.MkdirTemp("/dev/shm", "berth-bench-runtime-"); err != nil {
		return err
	}
	b.rootfs, b.group = filepath.Join(b.dir, "rootfs"), fmt.Sprintf("/berth-bench-%d", os.Getpid())
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(b.rootfs, d), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("busybox-static: %w", err)
	}
	for _, name := range []string{"true", "sleep"} {
		if err := os.WriteFile(filepath.Join(b.rootfs, "bin", name), busybox, 0o755); err != nil {
			return err
		}
	}
	sleep := []string{"/bin/sleep", "3600"}
	for _, bundle := range []struct {
		name   string
		memory int64
		args   []string
	}{
		{"true", 64 << 20, []string{"/bin/true"}}, {"small", 6 << 20, []string{"/bin/true"}}, {"sleep-berth-runtime", 64 << 20, sleep},
		{"sleep-crun", 64 << 20, sleep}, {"sleep-runc", 64 << 20, sleep},
	} {
		if err := b.write(bundle.name, bundle.memory, bundle.args); err != nil {
			return err
		}
	}
	for _, c := range [][]string{{"berth-runtime"}, {"crun", "--cgroup-manager", "cgroupfs"}, {"runc"}} {
		path, err := exec.LookPath(c[0])
		if c[0] == "berth-runtime" {
			path, err = filepath.Abs("bin/berth-runtime")
		}
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			if len(b.contestants) == 0 {
				return fmt.Errorf("%w: make build", err)
			}
			continue
		}
		root := filepath.Join(b.states, c[0])
		b.contestants = append(b.contestants, contestant{c[0], slices.Concat([]string{path, "--root", root}, c[1:])})
	}
	return nil
}

// bundle is the directory of a bundle, whose cgroup is named after it.
func (b *bench) bundle(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) write(name string, memory int64, args []string) error {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	pids, shares := int64(100), uint64(512)
	s := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: b.rootfs},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Hostname: "bench",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
				Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: b.group + "-" + name,
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}},
			MaskedPaths: []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Shares: &shares},
				Pids: &specs.LinuxPids{Limit: &pids}, Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
	var err error
	if s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s); err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.bundle(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.bundle(name), "config.json"), data, 0o644)
}

// call runs a runtime's command, with no output that a container could hold on to.
func (b *bench) call(c contestant, args ...string) error {
	cmd := exec.Command(c.command[0], slices.Concat(c.command[1:], args)...)
	errFile, err := os.CreateTemp(b.dir, "stderr")
	if err != nil {
		return err
	}
	defer errFile.Close()
	cmd.Stderr = errFile
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(errFile.Name())
		return fmt.Errorf("%s %s: %w: %s", c.name, strings.Join(args, " "), err, said)
	}
	return nil
}

func (b *bench) time(what string, args ...string) error {
	begin := time.Now()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	b.times[what] = append(b.times[what], float64(time.Since(begin).Microseconds())/1000)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// peak is what one start needs at most: of the whole cgroup, and of the command itself.
func (b *bench) peak(c contestant) (group, command float64, err error) {
	if command, err = peakOf(slices.Concat(c.command, []string{"run", "-b", b.bundle("true"), "peak"})); err != nil {
		return 0, 0, fmt.Errorf("%s run: %w", c.name, err)
	}
	if err := b.call(c, "create", "-b", b.bundle("true"), "peak"); err != nil {
		return 0, 0, err
	}
	if err := b.call(c, "start", "peak"); err != nil {
		return 0, 0, err
	}
	for _, file := range []string{"/sys/fs/cgroup/memory" + b.group + "-true/memory.max_usage_in_bytes", "/sys/fs/cgroup" + b.group + "-true/memory.peak"} {
		if data, err := os.ReadFile(file); err == nil {
			n, _ := strconv.ParseFloat(strings.TrimSpace(string(data)), 64)
			group = n / (1 << 20)
		}
	}
	return group, command, b.call(c, "delete", "--force", "peak")
}

// peakOf is the most memory, in MiB, that a program had in its life. The kernel counts with it what the process had before execve, which
// would be this program's: so a shell forks it, is gone, and leaves it to us to reap.
func peakOf(command []string) (float64, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, os.NewSyscallError("prctl", err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	said, err := exec.Command("sh", append([]string{"-c", `"$@" >/dev/null 2>&1 </dev/null & echo $!`, "sh"}, command...)...).Output()
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(said)))
	if err != nil {
		return 0, err
	}
	var ws unix.WaitStatus
	var usage unix.Rusage
	for {
		if _, err = unix.Wait4(pid, &ws, 0, &usage); err != unix.EINTR {
			break
		}
	}
	switch {
	case err != nil:
		return 0, os.NewSyscallError("wait4", err)
	case ws.ExitStatus() != 0:
		return 0, fmt.Errorf("it ended with %d", ws.ExitStatus())
	}
	return float64(usage.Maxrss) / 1024, nil
}

func (b *bench) report() (string, error) {
	floor := median(b.times["run floor"])
	var t strings.Builder
	fmt.Fprintf(&t, "# berth-runtime alone\n\nMade by `make bench-runtime` (%d rounds in turns, medians; compare within this table only). The floor is "+
		"`unshare -m -p -n -u -i -f --mount-proc chroot rootfs /bin/true`. The others run the specification Docker writes, with seccomp, "+
		"capabilities, masked paths and a cgroup with limits.\n\n", b.rounds)
	fmt.Fprintf(&t, "| | run | × floor | exec | × floor | peak of the cgroup | peak of the command | starts with 6 MiB |\n|---|---:|---:|---:|---:|---:|---:|---|\n")
	fmt.Fprintf(&t, "| floor | %.1f ms | 1.0 | | | | | |\n", floor)
	for _, c := range b.contestants {
		run, execTime := median(b.times["run "+c.name]), median(b.times["exec "+c.name])
		group, command, err := b.peak(c)
		if err != nil {
			return "", err
		}
		small := "yes"
		if err := b.call(c, "run", "-b", b.bundle("small"), "small"); err != nil {
			small = "no"
			_ = b.call(c, "delete", "--force", "small")
		}
		fmt.Fprintf(&t, "| %s | %.1f ms | %.2f | %.1f ms | %.2f | %.1f MiB | %.1f MiB | %s |\n", c.name, run, run/floor, execTime, execTime/floor,
			group, command, small)
	}
	if list := b.times["start berth-runtime"]; len(list) > 0 {
		fmt.Fprintf(&t, "\nOf %d starts of berth-runtime the slowest took %.1f ms, %.1f × their median of %.1f ms.\n", len(list), slices.Max(list),
			slices.Max(list)/median(list), median(list))
	}
	return t.String(), nil
}

// close removes the containers, their groups and the folder.
func (b *bench) close() error {
	for _, c := range b.contestants {
		states, err := os.ReadDir(filepath.Join(b.states, c.name))
		if err != nil {
			continue // it has made none
		}
		for _, s := range states {
			_ = b.call(c, "delete", "--force", s.Name()) // the folder shows below what it did not remove
		}
	}
	var errs []error
	for _, dir := range []string{b.dir, b.states} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}
