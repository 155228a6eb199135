package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

const tools = "github.com/opencontainers/runtime-tools"

// exceptions are what runc passes and berth-runtime does not, each with its reason.
func exceptions() []exception {
	return []exception{
		{`mounts`, `.*`,
			"it gives bind mounts the options mode=755 and size=1k, which no kernel heeds; runc passed over them before 1.2 and refuses them " +
				"since, as we do. Sources of binds are copied before anything is mounted, and the kernel lists mounts by their age, so " +
				"that it would find another order as well"},
		{`linux_ns_(itype|nopath)`, `.*(mnt|cannot run validation tests|namespace .* without).*`,
			"a container without a mount namespace would have its root made in the host's; it is refused (docs/decisions/0026)"},
		{`pidfile`, `.*`, "it kills a container that runs `true`, and passes when this has not ended a moment after its start"},
	}
}

type exception struct{ program, assertion, reason string }

// unexpected leaves out what an exception covers.
func unexpected(program string, assertions []string) (list []string) {
	for _, a := range assertions {
		if !slices.ContainsFunc(exceptions(), func(e exception) bool {
			return regexp.MustCompile(`^(`+e.program+`)$`).MatchString(program) && regexp.MustCompile(`^(`+e.assertion+`)$`).MatchString(a)
		}) {
			list = append(list, a)
		}
	}
	return list
}

// TestValidation runs the validation programs of runtime-tools with runc and with berth-runtime: what runc passes on this machine we
// pass, but for the exceptions. The programs are built from the module beside, which pins them.
func TestValidation(t *testing.T) {
	p := newPlace(t, "runc", "go", "tar", "unshare")
	programs := buildValidation(p)
	theirs, ours := map[string]verdict{}, map[string]verdict{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	// Most of a program's time is sleep. Those about cgroups share one path and must not meet.
	slots, cgroups := make(chan struct{}, 8), make(chan struct{}, 1)
	run := func(program, runtime string, verdicts map[string]verdict) {
		room := slots
		if strings.Contains(program, "cgroups") || strings.HasSuffix(program, "_resources") {
			room = cgroups
		}
		wg.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			v := p.validate(program, runtime)
			mu.Lock()
			defer mu.Unlock()
			verdicts[program] = v
		})
	}
	wrap(p, "runc", "runc")
	wrap(p, "berth", p.runtime)
	t.Cleanup(func() {
		for _, name := range []string{"cgrouptest", "testdir/cgrouptest/container", "testdir/cgrouptest", "testdir"} {
			dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
			for _, dir := range append(dirs, "/sys/fs/cgroup/"+name) {
				_ = syscall.Rmdir(dir) // works for what is empty
			}
		}
	})
	for _, program := range programs {
		run(program, "runc", theirs)
		run(program, "berth", ours)
	}
	wg.Wait()
	passed := 0
	for _, program := range programs {
		r, b := theirs[program], ours[program]
		missed := r.beyond(b, program)
		// Some send a signal to a shell as soon as it runs, and are lucky when it has set its trap by then.
		for range 3 {
			if len(missed) > 0 {
				b = p.validate(program, "berth")
				missed = r.beyond(b, program)
			}
		}
		if len(missed) > 0 {
			t.Errorf("%s: runc passes and we do not:\n  %s\n%s", program, strings.Join(missed, "\n  "), b.output)
		} else {
			passed++
		}
	}
	t.Logf("%d of %d programs: whatever runc passes, or a reason written down", passed, len(programs))
}

// buildValidation builds the programs and puts them where they look for their rootfs.
func buildValidation(p *place) (programs []string) {
	p.t.Helper()
	module := filepath.Join(harness.Repo(p.t), "test/runtime/validation")
	goTool := func(args ...string) string {
		cmd := exec.Command("go", args...)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		var errOut bytes.Buffer
		cmd.Stderr = &errOut
		out, err := cmd.Output()
		if err != nil {
			p.t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, errOut.String())
		}
		return strings.TrimSpace(string(out))
	}
	if err := os.Mkdir(filepath.Join(p.dir, "v"), 0o755); err != nil {
		p.t.Fatal(err)
	}
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(p.dir, "v") + "/", tools + "/cmd/runtimetest"}
	for pkg := range strings.Lines(goTool("list", "-f", `{{if eq .Name "main"}}{{.ImportPath}}{{end}}`, tools+"/validation/...")) {
		pkg = strings.TrimSpace(pkg)
		args = append(args, pkg)
		programs = append(programs, filepath.Base(pkg))
	}
	goTool(args...)
	rootfs := filepath.Join(goTool("list", "-m", "-f", "{{.Dir}}", tools), "rootfs-"+goTool("env", "GOARCH")+".tar.gz")
	if _, err := os.Stat(rootfs); err != nil {
		p.t.Skip("the validation programs have no root file system for this machine:", err)
	}
	if err := os.Symlink(rootfs, filepath.Join(p.dir, "v", filepath.Base(rootfs))); err != nil {
		p.t.Fatal(err)
	}
	return programs
}

// wrap makes the command by which the programs call a runtime.
func wrap(p *place, name, runtime string) {
	p.t.Helper()
	for _, dir := range []string{"root-", "tmp-"} {
		if err := os.Mkdir(filepath.Join(p.dir, dir+name), 0o711); err != nil {
			p.t.Fatal(err)
		}
	}
	text := fmt.Sprintf("#!/bin/sh\nexec %s --root %s/root-%s \"$@\"\n", runtime, p.dir, name)
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o755); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		p.shell(`for c in root-` + name + `/*/; do [ -d "$c" ] && ./` + name + ` delete --force $(basename $c); done`)
	})
}

// verdict is what a program said.
type verdict struct {
	passed map[string]int // how often, by assertion
	ends   bool           // with exit code 0
	output string
}

// beyond lists what v passed and other did not, without the exceptions.
func (v verdict) beyond(other verdict, program string) (missed []string) {
	for what, n := range v.passed {
		if other.passed[what] < n {
			missed = append(missed, what)
		}
	}
	if v.ends && !other.ends {
		missed = append(missed, "it ends well")
	}
	missed = unexpected(program, missed)
	slices.Sort(missed)
	return missed
}

// validate runs one program. In a mount namespace of its own, since some make the runtime mount into the caller's, and with its
// bundles in memory.
func (p *place) validate(program, runtime string) verdict {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "-m", "sh", "-c", `mount -t tmpfs tmpfs "$TMPDIR" && exec ./`+program)
	cmd.Dir = filepath.Join(p.dir, "v")
	cmd.Env = append(os.Environ(), "RUNTIME="+filepath.Join(p.dir, runtime), "TMPDIR="+filepath.Join(p.dir, "tmp-"+runtime))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return verdict{passed: passed(string(out), program), ends: err == nil, output: clip(string(out))}
}

func clip(s string) string {
	var keep []string
	for line := range strings.Lines(s) {
		if !strings.HasPrefix(line, "ok ") && len(keep) < 40 {
			keep = append(keep, line[:min(len(line), 300)])
		}
	}
	return strings.Join(keep, "")
}

// passed counts the assertions that hold in what a program of the Test Anything Protocol printed. One that stands for a whole
// list of others, which its diagnosis shows, holds when all of these do or have an exception.
func passed(tap, program string) map[string]int {
	counts := map[string]int{}
	for _, a := range assertions(tap) {
		if !a.ok && a.inner != "" {
			var missed []string
			for _, in := range assertions(a.inner) {
				if !in.ok {
					missed = append(missed, in.what)
				}
			}
			a.ok = len(missed) > 0 && len(unexpected(program, missed)) == 0
		}
		if a.ok {
			counts[a.what]++
		}
	}
	return counts
}

type assertion struct {
	ok    bool
	what  string
	inner string // the whole run's output that it stands for
}

func assertions(tap string) (list []assertion) {
	first := regexp.MustCompile(`^(not )?ok \d+ - (.*)$`)
	temporary := regexp.MustCompile(`ocitest\d+`)
	var diagnosis, run string // a run's output comes before the assertion that stands for it
	for line := range strings.Lines(tap) {
		line = strings.TrimSuffix(line, "\n")
		if m := first.FindStringSubmatch(line); m != nil {
			list = append(list, assertion{ok: m[1] == "", what: temporary.ReplaceAllString(m[2], "ocitest"), inner: run})
			run = ""
			continue
		}
		switch line = strings.TrimPrefix(line, "  "); {
		case line == "---":
			diagnosis = ""
		case line == "...":
			var d struct{ Stdout string }
			if json.Unmarshal([]byte(diagnosis), &d) == nil && strings.HasPrefix(d.Stdout, "TAP ") {
				run = d.Stdout
			}
		default:
			diagnosis += line + "\n"
		}
	}
	return list
}
