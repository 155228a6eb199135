package ocirun

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

func TestSmallProgramsAreValid(t *testing.T) {
	for _, start := range []*byte{initCode(), shieldCode()} {
		image, err := smallImage(start)
		if err != nil {
			t.Fatal(err)
		}
		if len(image) > 768 {
			t.Errorf("it has %d bytes", len(image))
		}
		f, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Progs {
			if p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0 {
				t.Errorf("a segment can be written and executed: %+v", p)
			}
		}
	}
}

// The test's own program is a file that root can write to, so there is a shield, and a container that asks for
// /proc/self/exe gets that.
func TestShield(t *testing.T) {
	rootfs := newRootfs(t)
	if !exposed() {
		t.Skip("the test runs from a file that cannot be written to")
	}
	before, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self/exe", rootfs+"/bin/evil"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/proc/self/exe", "evil", "/bin/evil"} {
		s := newSpec(rootfs, name)
		s.Process.Env = []string{"PATH=/bin:/usr/bin"}
		_, ws := run(t, StartOptions{Spec: s})
		if ws.Code != 127 {
			t.Error(name, ws)
		}
	}
	if after, err := os.ReadFile("/proc/self/exe"); err != nil || !bytes.Equal(before, after) {
		t.Error("the program has changed", err)
	}
	for name, code := range map[string]int{"sh": 0, "/bin/sh": 0} {
		s := newSpec(rootfs, name, "-c", `exit 0`)
		s.Process.Env = []string{"PATH=/nowhere:/etc/passwd:/etc:/bin"}
		if _, ws := run(t, StartOptions{Spec: s}); ws.Code != code {
			t.Error(name, ws)
		}
	}
}

func withInit(o *StartOptions) { o.Init = true }

func TestInitRunsTheProgram(t *testing.T) {
	out := sh(t, `echo $$ $PPID "$X"; cat /proc/1/cmdline | tr '\0' ' '; ls -l /proc/1/exe; ls /proc/1/fd; id -u; env`,
		func(o *StartOptions) {
			o.Init = true
			o.Spec.Process.Env = append(o.Spec.Process.Env, "X=y z")
			o.Spec.Process.User.UID = 1000
		})
	has(t, out, "2 1 y z\n", "memfd:docker-init", "/sbin/docker-init -- sh -c echo", "0\n1\n2\n1000\n")
	if strings.Contains(out, "/bin/sh\n") {
		t.Error("the program's environment has the init's entry:", out)
	}
	for script, code := range map[string]int{"exit 7": 7, "kill -TERM $$": 143, "kill -9 $$": 137, "true": 0} {
		o := StartOptions{Spec: newSpec(newRootfs(t), "sh", "-c", script), Init: true}
		if out, ws := run(t, o); ws.Code != code {
			t.Error(script, ws, out)
		}
	}
}

// Orphans are reaped, and the end of one is not taken for the end of the program.
func TestInitReaps(t *testing.T) {
	out := sh(t, `for i in 1 2 3 4 5; do (sleep 0.01 & exec true); done; sleep 0.2; n=0
		while all=$(ps -o stat,comm); echo "$all" | grep -q 'Z '; do n=$((n+1)); [ $n = 2000 ] && break; sleep 0.02; done; echo "$all"; echo done`, withInit)
	has(t, out, "done\n")
	if strings.Contains(out, "Z ") {
		t.Error(out)
	}
}

func TestInitPassesSignalsOn(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGUSR1, unix.SIGINT, unix.Signal(40)} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		s := newSpec(newRootfs(t), "sh", "-c", `for s in TERM USR1 INT 40; do trap "echo got $s; exit 9" $s; done; echo ready; while :; do sleep 0.01; done`)
		p, err := Start(context.Background(), StartOptions{Spec: s, Init: true, Stdout: w})
		_ = w.Close()
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		if n, _ := r.Read(buf); string(buf[:n]) != "ready\n" {
			t.Errorf("%q", buf[:n])
		}
		if err := linux.PidfdSendSignal(p.Pidfd, sig); err != nil {
			t.Error(err)
		}
		out, _ := io.ReadAll(r)
		if ws, err := linux.WaitPidfd(p.Pidfd); err != nil || ws.Code != 9 || !strings.HasPrefix(string(out), "got ") {
			t.Error(ws, err, string(out))
		}
		_, _ = r.Close(), p.Close()
	}
}

func TestInitReportsWhatCannotBeRun(t *testing.T) {
	rootfs := newRootfs(t)
	write(t, rootfs+"/bin/script", "#!/nowhere/sh\n")
	if err := os.Chmod(rootfs+"/bin/script", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, code := range map[string]int{"nothing": 127, "/nothing": 127, "/etc": 126, "/bin/script": 127} {
		_, err := Start(context.Background(), StartOptions{Spec: newSpec(rootfs, name), Init: true})
		var ee *ExecError
		if !errors.As(err, &ee) || ee.Code() != code {
			t.Error(name, err)
		}
	}
}

func TestInitWithATerminal(t *testing.T) {
	s := newSpec(newRootfs(t), "sh", "-c", "cat; exit 5")
	p, err := Start(context.Background(), StartOptions{Spec: s, Init: true, Terminal: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Master.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Master.Write([]byte("hello\n\x03")); err != nil { // and an interrupt, for the program's own group
		t.Error(err)
	}
	out, _ := io.ReadAll(p.Master)
	if ws, err := linux.WaitPidfd(p.Pidfd); err != nil || ws.Code != 130 {
		t.Error(ws, err, string(out))
	}
}
