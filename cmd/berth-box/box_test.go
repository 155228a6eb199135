package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// TestMain lets the test binary play box itself: tests start it again under the names of its commands.
func TestMain(m *testing.M) {
	if os.Getenv("BOX_TEST_RUN") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// boxDir makes a directory with every command as a link to the test binary.
func boxDir(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, n := range append(names(), "box") {
		if err := os.Symlink(self, filepath.Join(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func command(t *testing.T, bin, work string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, args[0]), args[1:]...)
	cmd.Dir = work
	cmd.Env = []string{"BOX_TEST_RUN=1", "PATH=" + bin, "HOME=/", "TZ=UTC", "GORACE=atexit_sleep_ms=0"}
	return cmd
}

func exitOf(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	ee, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatal(err)
	}
	if ws := ee.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ee.ExitCode()
}

// TestShell is what people write after `sh -c`: the script, its output, its exit code.
func TestShell(t *testing.T) {
	bin, work := boxDir(t), t.TempDir()
	for _, tc := range []struct {
		script, out string
		code        int
	}{
		{`exit 7`, "", 7},
		{`echo hi | tr a-z A-Z`, "HI\n", 0},
		{`nonexistent`, "", 127},
		{`/nonexistent`, "", 127},
		{`/`, "", 126},
		{`touch f; ./f`, "", 126},
		{`if; then`, "", 2},
		{`set -e; false; echo no`, "", 1},
		{`kill -9 $$`, "", 137},
		{`exec echo replaced; echo no`, "replaced\n", 0},
		{`(exec echo sub); echo main`, "sub\nmain\n", 0},
		{`exec nonexistent; echo no`, "", 127},
		{`echo a >x; echo b >>x; cat <x; exec 2>y; echo err >&2; cat y`, "a\nb\nerr\n", 0},
		{`sleep 9 & p=$!; kill $p; wait $p; echo $?`, "143\n", 0},
		{`while :; do sleep 0.05; done & kill $!; wait $!; echo $?`, "143\n", 0},
		{`trap "echo bye" EXIT; echo x`, "x\nbye\n", 0},
		{`trap "echo term; exit 3" TERM; kill -TERM $$; while :; do sleep 0.01; done; echo no`, "term\n", 3},
		{`trap "" TERM; kill -TERM $$; echo alive`, "alive\n", 0},
		{`trap g=got USR1; (until test -e waited; do sleep 0.02; kill -USR1 $$; done) & sleep 900 & wait; c=$?; touch waited; echo $g $c
			kill $!; until wait; do :; done; echo end`, "got 138\nend\n", 0},
		{`sh -c 'exit 4'; echo $?`, "4\n", 0},
		{`echo 'echo "$0 $1"; exit 9' >s; sh s arg`, "s arg\n", 9},
		{`printf 'echo noshebang\n' >n; chmod 755 n; ./n`, "noshebang\n", 0},
		{`touch a; for m in 4711 u-s g+s,o+t 0 ugo=rX a=r,u+x go+X -r u=rwxs,g=u,o= +t; do chmod $m a; stat -c %a a; done`,
			"4711\n711\n3711\n0\n444\n544\n555\n111\n4770\n5770\n", 0},
		{`mkdir -m 3775 d && mkdir d/e && touch d/f && chmod -R go-w,o-rx d && stat -c %a d d/e d/f; chmod --reference=d d/f; stat -c %a d/f`,
			"3750\n2750\n640\n3750\n", 0},
		{`umask 027; touch g; chmod +rwx g; stat -c %a g; chmod =w g; stat -c %a g; mkdir h; stat -c %a h`, "750\n200\n750\n", 0},
		{`touch i; chmod 8 i || chmod 17777 i || chmod u~s i || chmod i || chmod "" i || stat -c %a i`, "644\n", 0},
		{`mkdir d2; mkdir d2 && echo no; mkdir -p d2 d2/a/b && touch d2/f && mkdir -p d2/f`, "", 1},
		{`umask 027; umask`, "0027\n", 0},
		{`ulimit -n 99; ulimit -n; sh -c 'ulimit -n'`, "99\n99\n", 0},
		{`ulimit -S -n 77; exec sh -c 'ulimit -n; sleep 0.01; ulimit -n'`, "77\n77\n", 0},
		{`x=$(printf 'a\nb\n'); echo "$x" | wc -l`, "2\n", 0},
		{`f() { return 5; }; f; echo $?; for i in 1 2; do echo $i; done`, "5\n1\n2\n", 0},
		{`test 1 -lt 2 && [ -d / ] && ! [ -f / ] && echo ok`, "ok\n", 0},
	} {
		t.Run(tc.script, func(t *testing.T) {
			out, err := command(t, bin, work, "sh", "-c", tc.script).Output()
			if got := exitOf(t, err); got != tc.code || string(out) != tc.out {
				t.Errorf("sh -c %q: output %q, exit code %d; want %q, %d", tc.script, out, got, tc.out, tc.code)
			}
		})
	}
}

// TestCommands runs each command the way scripts do.
func TestCommands(t *testing.T) {
	bin, work := boxDir(t), t.TempDir()
	write(t, filepath.Join(work, "in"), "root:x:0\nuser:x:1000\nroot2:x:0\n")
	for _, tc := range []struct {
		line, out string
		code      int
	}{
		{"true", "", 0},
		{"false", "", 1},
		{"cat in", "root:x:0\nuser:x:1000\nroot2:x:0\n", 0},
		{"cat nonexistent", "", 1},
		{"head -n 1 in", "root:x:0\n", 0},
		{"head -1 in", "root:x:0\n", 0},
		{"tail -n 1 in", "root2:x:0\n", 0},
		{"tail -n +3 in", "root2:x:0\n", 0},
		{"tail -c 3 in", ":0\n", 0},
		{"wc -l in", "3 in\n", 0},
		{"cut -d: -f1,3 in", "root:0\nuser:1000\nroot2:0\n", 0},
		{"grep -c root in", "2\n", 0},
		{"grep nothing in", "", 1},
		{"grep x nonexistent", "", 2},
		{"grep -no ro*t in", "1:root\n3:root\n", 0},
		{"grep -vE ^(root|none) in", "user:x:1000\n", 0},
		{"sed -n 2p in", "user:x:1000\n", 0},
		{`sed s/\(r\)\(o\)/\2\1/;/user/d in`, "orot:x:0\norot2:x:0\n", 0},
		{"sed 1,2d in", "root2:x:0\n", 0},
		{"sed k in", "", 2},
		{"sort -t: -k3n -k1r in", "root:x:0\nroot2:x:0\nuser:x:1000\n", 0},
		{"seq 1 2 5", "1\n3\n5\n", 0},
		{"basename /a/b.c .c", "b\n", 0},
		{"dirname /a/b/", "/a\n", 0},
		{"printf %05.1f|%s\\n 3.14159 x", "003.1|x\n", 0},
		{"expr 7 * 6", "42\n", 0},
		{"expr 1 - 1", "0\n", 1},
		{"env A=b printenv A", "b\n", 0},
		{"date -u -d @0 +%F_%T", "1970-01-01_00:00:00\n", 0},
		{"stat -c %s_%F in", "31_regular file\n", 0},
		{"timeout 0.05 sleep 9", "", 124},
		{"timeout 500 false", "", 1},
		{"mkdir -p d/e", "", 0},
		{"cp -a in d/e/copy", "", 0},
		{"cp d x", "", 1},
		{"cp -r d d2", "", 0},
		{"find d2 -type f -name c*", "d2/e/copy\n", 0},
		{"cmp in d2/e/copy", "", 0},
		{"mv d2 d3", "", 0},
		{"tar czf t.tgz d3", "", 0},
		{"rm -r d3", "", 0},
		{"tar xf t.tgz", "", 0},
		{"cat d3/e/copy", "root:x:0\nuser:x:1000\nroot2:x:0\n", 0},
		{"gzip -k in", "", 0},
		{"zcat in.gz", "root:x:0\nuser:x:1000\nroot2:x:0\n", 0},
		{"ln -s in link", "", 0},
		{"readlink link", "in\n", 0},
		{"ls -1 d3", "e\n", 0},
		{"ls nonexistent", "", 1},
		{"sha256sum nonexistent", "", 1},
		{"dd if=in bs=4 count=1 status=none", "root", 0},
		{"which nonexistent", "", 1},
		{"cat --nonsense", "", 2},
		{"box nonexistent", "", 127},
		{"box true", "", 0},
	} {
		t.Run(tc.line, func(t *testing.T) {
			fields := strings.Fields(tc.line)
			out, err := command(t, bin, work, fields...).Output()
			if got := exitOf(t, err); got != tc.code || string(out) != tc.out {
				t.Errorf("%s: output %q, exit code %d; want %q, %d", tc.line, out, got, tc.out, tc.code)
			}
		})
	}
}

// TestTarStaysInside feeds tar an archive that tries to leave the directory it is extracted in.
func TestTarStaysInside(t *testing.T) {
	bin, work := boxDir(t), t.TempDir()
	inner := filepath.Join(work, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, headers := range [][]tar.Header{
		{{Name: "../escaped", Typeflag: tar.TypeReg}},
		{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/escaped", Typeflag: tar.TypeReg}},
		{{Name: "h", Typeflag: tar.TypeLink, Linkname: "../in"}},
	} {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		for _, h := range headers {
			if err := tw.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(work, "in"), "secret")
		cmd := command(t, bin, inner, "tar", "x")
		cmd.Stdin = &buf
		if err := cmd.Run(); err == nil {
			t.Errorf("%s: extracted without an error", headers[0].Name)
		}
		if _, err := os.Stat(filepath.Join(work, "escaped")); err == nil {
			t.Errorf("%s: wrote outside", headers[0].Name)
		}
	}
}

// TestPidOne: a shell that is process 1 reaps orphans and can be ended by SIGTERM.
func TestPidOne(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a pid namespace needs root")
	}
	bin := boxDir(t)
	start := func(script string) *exec.Cmd {
		cmd := command(t, bin, "/", "sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	orphan := start(`sh -c 'sleep 0.1 & exit 0'; while kill -0 -1; do sleep 0.02; done; echo done`)
	stop := time.AfterFunc(2*time.Minute, func() { _ = orphan.Process.Kill() })
	out, err := orphan.Output()
	stop.Stop()
	if err != nil || string(out) != "done\n" {
		t.Errorf("an orphan was left unreaped: %q, %v", out, err)
	}
	for script, want := range map[string]int{
		"echo up; sleep 600; echo not reached":             143,
		"echo up; exec sleep 600":                          143,
		"trap 'exit 5' TERM; echo up; sleep 600 & wait; :": 5,
	} {
		cmd := start(script)
		up, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := up.Read(make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		// Again and again: one that comes while a process 1 executes another program is lost to both.
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for waiting := true; waiting; {
			select {
			case err = <-ended:
				waiting = false
			case <-time.After(100 * time.Millisecond):
				_ = cmd.Process.Signal(syscall.SIGTERM) // or it has ended just now
			}
		}
		if got := exitOf(t, err); got != want {
			t.Errorf("%s as process 1, after SIGTERM: exit code %d, want %d", script, got, want)
		}
	}
}

// TestRootfs: the image's file system holds the promised places and is the same bytes every time.
func TestRootfs(t *testing.T) {
	box, err := os.CreateTemp(t.TempDir(), "box")
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	if _, err := box.WriteString("program"); err != nil {
		t.Fatal(err)
	}
	var sums [2][32]byte
	var buf bytes.Buffer
	for i := range sums {
		if _, err := box.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		buf.Reset()
		if err := packRootfs(&buf, box); err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(buf.Bytes())
	}
	if sums[0] != sums[1] {
		t.Error("two archives of one program differ")
	}
	zr, err := gzip.NewReader(&buf)
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]int64{}
	links := map[string]string{}
	var order []string
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		modes[h.Name], links[h.Name] = h.Mode, h.Linkname
		order = append(order, h.Name)
	}
	if !slices.IsSorted(order) {
		t.Error("entries are not sorted")
	}
	for name, mode := range map[string]int64{"tmp/": 0o1777, "root/": 0o700, "bin/box": 0o755, "etc/passwd": 0o644} {
		if modes[name] != mode {
			t.Errorf("%s has mode %o, want %o", name, modes[name], mode)
		}
	}
	for _, name := range []string{"bin/sh", "bin/true", "bin/["} {
		if links[name] != "box" {
			t.Errorf("%s links to %q", name, links[name])
		}
	}
}

// TestTableSorted keeps the table readable and free of doubles.
func TestTableSorted(t *testing.T) {
	list := names()
	if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
		t.Error("names are not sorted or not unique")
	}
	rows := table()
	if !slices.IsSortedFunc(rows, func(a, b row) int { return strings.Compare(a.name, b.name) }) {
		t.Error("table() is not sorted")
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func FuzzSed(f *testing.F) {
	for _, s := range []string{"s/a/b/g", "1,$d", "/x/{p;q}", `y/ab/cd/`, "s/[/]/x/", "$!N;P;D"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		p := &sedParser{src: script}
		if prog, err := p.commands(false); err == nil && !strings.Contains(script, "D") {
			(&sedRun{prog: prog, lines: []string{"abc", "def"}, out: io.Discard}).run()
		}
	})
}

// Of what never ends a block is whole, however it comes.
func TestBlocksAreWhole(t *testing.T) {
	var out bytes.Buffer
	full, partial, n, err := ddCopy(&out, &whole{iotest.HalfReader(strings.NewReader(strings.Repeat("x", 25)))}, make([]byte, 10), 0, -1)
	if full != 2 || partial != 1 || n != 25 || err != nil {
		t.Errorf("%d+%d blocks, %d bytes, %v", full, partial, n, err)
	}
	for name, want := range map[string]bool{"/dev/zero": true, "/dev/urandom": true, "/dev/null": false, "/etc/passwd": false} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := endless(f); got != want {
			t.Errorf("%s: %v", name, got)
		}
		f.Close()
	}
}
