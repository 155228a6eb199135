package guest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Program is something to run in the guest as root, in a directory of its own. It succeeds when it exits with 0.
type Program struct {
	// Name of the subtest.
	Name string
	// Package whose tests are compiled and run, with its testdata
	// ("github.com/berth-engine/berth/internal/cgroup"), or "" where Path is the host's path of a static binary.
	Package, Path string
	// Before is a piece of shell that runs first, in the guest.
	Before string
	// Args are handed to it; tests are always verbose.
	Args []string
	// Env is added to PATH, HOME and CI=true.
	Env []string
	// Modules are kernel modules to load first, with what they depend on. Overlay, loop and veth always are.
	Modules []string
	// Files are put into the guest: path there → path here.
	Files map[string]string
}

const (
	memory = "1024" // MiB
	// limit is how long a guest may take, unless the test's own deadline is nearer.
	limit = 10 * time.Minute
	// bootLimit is how long it may take until the first program begins: 6 s, and a minute and a half were seen at a load of 40.
	bootLimit = 3 * time.Minute
)

// CutLine is what a program prints on a line of its own when the power may be cut.
const CutLine = "@cut"

// Machine is a guest that can be booted any number of times.
type Machine struct {
	tools    tools
	initrd   string
	programs []Program
	systemd  bool
}

// Run boots one guest, runs the programs in it in their order, and reports each as a subtest.
func Run(t *testing.T, programs []Program) {
	t.Helper()
	Prepare(t, programs).Run(t, "")
}

// Prepare makes what a guest is booted from.
func Prepare(t *testing.T, programs []Program) *Machine {
	t.Helper()
	return prepare(t, &Machine{programs: programs})
}

// PrepareSystemd is Prepare of a guest whose process 1 is Debian's systemd; the programs are run by a unit of it.
func PrepareSystemd(t *testing.T, programs []Program) *Machine {
	t.Helper()
	return prepare(t, &Machine{programs: programs, systemd: true})
}

func prepare(t *testing.T, m *Machine) *Machine {
	t.Helper()
	m.tools, m.initrd = findTools(t, m.systemd), filepath.Join(t.TempDir(), "initrd")
	if err := m.tools.build(t, m); err != nil {
		t.Fatal(err)
	}
	return m
}

// Run boots the guest as Run does. Disk is a file that becomes its /dev/vda, "" for none; the parameters are added to its
// kernel's command line.
func (m *Machine) Run(t *testing.T, disk string, parameters ...string) {
	t.Helper()
	results, failure := m.boot(t, disk, parameters, nil)
	for i, p := range m.programs {
		t.Run(p.Name, func(t *testing.T) { results[i].report(t) })
	}
	if failure != "" {
		t.Error(failure)
	}
}

// Cut boots the guest and takes the power from it: it is killed after a pause that begins when its program has printed
// CutLine. What the guest's kernel has not written to the disk by then is lost. A program that ends before fails the test.
func (m *Machine) Cut(t *testing.T, disk string, pause time.Duration) {
	t.Helper()
	wasCut := false
	results, failure := m.boot(t, disk, nil, func(line string, kill func()) {
		if line == CutLine && !wasCut {
			wasCut = true
			time.AfterFunc(pause, kill)
		}
	})
	switch {
	case !wasCut || results[0].status != "":
		t.Errorf("the program ended before the power was cut, with the status %q:\n%s\n%s", results[0].status, &results[0].output, failure)
	default:
		t.Logf("the power was cut %v after the program began to work", pause)
	}
}

// boot runs the guest until its end. It returns what the programs did, and what else was wrong. Emulated machines now and then
// hang before their kernel says a word; then nothing has happened, on the disk neither, and it is switched on again.
func (m *Machine) boot(t *testing.T, disk string, parameters []string, said func(line string, kill func())) ([]result, string) {
	t.Helper()
	for boots := 1; ; boots++ {
		results, failure := m.once(t, disk, parameters, said)
		if results[0].begun || boots == 3 || t.Context().Err() != nil {
			return results, failure
		}
		t.Logf("the guest did not come up: %s", failure)
	}
}

// once switches the guest on.
func (m *Machine) once(t *testing.T, disk string, parameters []string, said func(line string, kill func())) ([]result, string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	if os.Getenv("BERTH_SOAK") != "" { // on a machine that does other things as well
		deadline = time.Now().Add(4 * limit)
	}
	if d, ok := t.Deadline(); ok && d.Before(deadline) {
		deadline = d.Add(-5 * time.Second) // leaves time to tell what happened
	}
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	defer cancel()
	args := []string{"-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", memory,
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", m.tools.kernel, "-initrd", m.initrd,
		"-append", strings.Join(append([]string{"console=ttyS0 quiet loglevel=3 panic=-1 swapaccount=1 random.trust_cpu=on"},
			parameters...), " ")}
	if disk != "" {
		// The host does not lose power, so that nothing needs to be synced there.
		args = append(args, "-drive", "if=virtio,format=raw,cache=unsafe,file="+disk)
	}
	cmd := exec.CommandContext(ctx, m.tools.qemu, args...)
	cmd.Stderr = &bytes.Buffer{}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(bootLimit, func() { _ = cmd.Process.Kill() }) // it may have ended, which is seen elsewhere
	defer hung.Stop()
	results, noise := read(out, len(m.programs), func() {
		hung.Stop()
		t.Logf("booted in %.1f s", time.Since(started).Seconds())
	},
		func(line string) {
			if said != nil {
				said(line, func() { _ = cmd.Process.Kill() }) // it may have ended, which is seen elsewhere
			}
		})
	err = cmd.Wait()
	t.Logf("the guest ran for %.1f s", time.Since(started).Seconds())
	if err != nil || slices.ContainsFunc(results, func(r result) bool { return r.status != "0" }) {
		return results, fmt.Sprintf("qemu: %v, %s\nthe guest also said:\n%s", err, cmd.Stderr, noise)
	}
	return results, ""
}

// result is what one program did; status is "" while it has not ended.
type result struct {
	begun  bool
	status string
	output strings.Builder
}

func (r *result) report(t *testing.T) {
	out := r.output.String()
	switch {
	case !r.begun:
		t.Error("it was not started")
	case r.status == "":
		t.Errorf("it did not end:\n%s", out)
	case r.status != "0":
		t.Errorf("it ended with status %s:\n%s", r.status, out)
	default:
		t.Log(summary(out))
	}
}

// summary leaves what is worth reading of tests that passed.
func summary(out string) string {
	var b strings.Builder
	passed := 0
	for line := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(line, "--- PASS"):
			passed++
			if _, took, _ := strings.Cut(line, " ("); len(took) > len("9.99s)\n") { // ten seconds and more
				b.WriteString(line)
			}
		case strings.HasPrefix(line, "--- SKIP"), strings.HasPrefix(line, "Benchmark"):
			b.WriteString(line)
		}
	}
	return fmt.Sprintf("%d tests passed\n%s", passed, &b)
}

// read sorts the lines of the serial line by program. What belongs to none, such as the kernel's messages, is noise.
func read(from io.Reader, programs int, booted func(), said func(line string)) (results []result, noise string) {
	results = make([]result, programs)
	current := -1
	var other strings.Builder
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		f := strings.Fields(line)
		n := -1
		// A program may have left its last line open.
		if at := strings.Index(line, "@guest "); at >= 0 {
			f = strings.Fields(line[at:])
			if len(f) >= 3 {
				if i, err := strconv.Atoi(f[2]); err == nil && i < programs {
					n = i
				}
			}
			line = line[:at]
		}
		switch {
		case n >= 0 && f[1] == "begin":
			if n == 0 {
				booted()
			}
			current, results[n].begun = n, true
		case n >= 0 && f[1] == "end" && len(f) == 4:
			results[n].output.WriteString(line)
			results[n].status, current = f[3], -1
		case current >= 0:
			said(line)
			results[current].output.WriteString(line + "\n")
		case line != "":
			other.WriteString(line + "\n")
		}
		if err != nil {
			return results, other.String()
		}
	}
}

// tools are the parts of the host that a guest is made of.
type tools struct {
	qemu, kernel, modules, busybox string
}

func findTools(t *testing.T, systemd bool) tools {
	t.Helper()
	missing := func(what, pkg string) {
		t.Helper()
		if os.Getenv("CI") != "" {
			t.Fatalf("there is no %s; install it: apt-get install %s", what, pkg)
		}
		t.Skipf("there is no %s (apt-get install %s)", what, pkg)
	}
	for _, name := range systemdPrograms {
		if _, err := os.Stat(name); systemd && err != nil {
			missing(name, "systemd")
		}
	}
	var x tools
	var err error
	if x.qemu, err = exec.LookPath("qemu-system-x86_64"); err != nil {
		missing("qemu-system-x86_64", "qemu-system-x86")
	}
	if x.busybox, err = exec.LookPath("busybox"); err != nil {
		missing("busybox", "busybox-static")
	}
	// A kernel counts only with its modules.
	kernels, _ := filepath.Glob("/boot/vmlinuz-*")
	slices.Sort(kernels)
	for _, k := range slices.Backward(kernels) {
		dir := "/lib/modules/" + strings.TrimPrefix(filepath.Base(k), "vmlinuz-")
		if _, err := os.Stat(dir + "/modules.dep"); err == nil {
			x.kernel, x.modules = k, dir
			break
		}
	}
	if x.kernel == "" {
		missing("kernel in /boot with its modules", "linux-image-amd64")
	}
	return x
}
