package monitor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

var everything = AttachOptions{Stdin: true, Stdout: true, Stderr: true, Mux: true}

func TestStartAndExit(t *testing.T) {
	f := setUp(t)
	for script, want := range map[string]Exit{
		"exit 0":     {Code: 0},
		"exit 7":     {Code: 7},
		"exit 255":   {Code: 255},
		"kill -9 $$": {Code: 137, Signal: 9},
		"kill -2 $$": {Code: 130, Signal: 2},
	} {
		conf := f.container("echo out; echo err >&2; " + script)
		conf.Note = []byte("note")
		before := time.Now()
		c := f.start(conf)
		info := c.Info()
		if info.Pid <= 1 || info.MonitorPid <= 1 || info.Pid == info.MonitorPid || string(info.Note) != "note" ||
			info.StartedAt.Before(before) || info.StartedAt.After(time.Now()) {
			t.Errorf("info %+v", info)
		}
		x := f.exit(c)
		if x.Code != want.Code || x.Signal != want.Signal || x.FinishedAt.Before(info.StartedAt) || x.OOMKilled || x.Error != "" {
			t.Errorf("%s: exit %+v", script, x)
		}
		e := f.event(c)
		if e.Kind != EventExit || e.Exit.Code != want.Code {
			t.Errorf("%s: event %+v", script, e)
		}
		if _, more := <-c.Events(); more {
			t.Errorf("%s: events after the exit", script)
		}
		// Everything is in its place when the event comes.
		rec, err := ReadExit(conf.Dir)
		if err != nil || rec.Code != want.Code || rec.Signal != want.Signal || !rec.FinishedAt.Equal(x.FinishedAt) {
			t.Errorf("%s: record %+v, %v", script, rec, err)
		}
		if out, errs := readLog(t, conf.Log.Path); out != "out\n" || errs != "err\n" {
			t.Errorf("%s: log %q, %q", script, out, errs)
		}
		if _, err := Dial(f.ctx, conf.Dir); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%s: dial gave %v", script, err)
		}
		if err := c.Signal(f.ctx, 9); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%s: signal gave %v", script, err)
		}
		f.gone(info.MonitorPid)
		files, _ := os.ReadDir(conf.Dir)
		for _, e := range files {
			if e.Name() != recordName && e.Name() != "log" {
				t.Errorf("%s: %q is left", script, e.Name())
			}
		}
	}
}

func TestStartRefused(t *testing.T) {
	f := setUp(t)
	for name, c := range map[string]struct {
		spoil func(*Config)
		text  string
	}{
		"no program": {func(c *Config) { c.Spec.Process.Args = []string{"/missing"} }, "the program is missing"},
		"no process": {func(c *Config) { c.Spec.Process = nil }, "has no process"},
		"no args":    {func(c *Config) { c.Spec.Process.Args = nil }, "has no process"},
		"no spec":    {func(c *Config) { c.Spec = nil }, "has no process"},
		"no dir":     {func(c *Config) { c.Dir = "" }, "no run directory"},
		"bad dir":    {func(c *Config) { c.Dir = "/proc/none" }, "/proc/none"},
		"bad log":    {func(c *Config) { c.Log.Path = "log" }, "not absolute"},
		"bad driver": {func(c *Config) { c.Log.Driver = "syslog" }, "syslog"},
	} {
		conf := f.container("exit 0")
		c.spoil(&conf)
		peer, theirs := f.pair()
		_, _, err := f.launcher.Start(f.ctx, conf, Files{}, []AttachStream{{theirs, everything}})
		var failed *StartError
		if !errors.As(err, &failed) || failed.Code != 125 || !strings.Contains(failed.Message, c.text) {
			t.Errorf("%s: %v", name, err)
		}
		// The streams are still ours.
		if _, err := theirs.Write([]byte("x")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		peer.until("x")
		if strings.HasPrefix(conf.Dir, "/tmp") {
			if _, err := os.Stat(filepath.Join(conf.Dir, socketName)); err == nil {
				t.Errorf("%s: the socket is left", name)
			}
			if _, err := ReadExit(conf.Dir); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("%s: exit record: %v", name, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	if _, _, err := f.launcher.Start(ctx, f.container("exit 0"), Files{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A client that was there from the start sees the first byte and, before its connection is closed, the last one.
func TestAttachAtStart(t *testing.T) {
	f := setUp(t)
	for i := range 20 {
		peer, theirs := f.pair()
		raw, theirsRaw := f.pair()
		c := f.start(f.container("echo first; echo oops >&2; exit 4"), AttachStream{theirs, everything},
			AttachStream{theirsRaw, AttachOptions{Stdout: true}})
		out, errs := frames(t, peer.rest())
		if out != "first\n" || errs != "oops\n" {
			t.Fatalf("round %d: %q, %q", i, out, errs)
		}
		if got := raw.rest(); got != "first\n" {
			t.Fatalf("round %d: raw %q", i, got)
		}
		if x := f.exit(c); x.Code != 4 {
			t.Fatalf("exit %+v", x)
		}
	}
}

func TestAttachLater(t *testing.T) {
	f := setUp(t)
	conf := f.container("while read line; do echo got $line; done; echo end")
	conf.OpenStdin = true
	c := f.start(conf)
	one, theirs := f.pair()
	done, err := c.Attach(f.ctx, theirs, everything)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	two, theirs2 := f.pair()
	if _, err := c.Attach(f.ctx, theirs2, AttachOptions{Stdout: true, Mux: true}); err != nil {
		t.Fatal(err)
	}
	theirs2.Close()
	one.write("a\nb\n")
	if got := one.until("got b\n"); !strings.Contains(got, "got a\n") {
		t.Errorf("%q", got)
	}
	two.until("got b\n")
	// Without StdinOnce the end of its input lets the client go, and the container goes on.
	one.closeWrite()
	one.rest()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-f.ctx.Done():
		t.Fatal("the end of the attachment was not told")
	}
	three, theirs3 := f.pair()
	if _, err := c.Attach(f.ctx, theirs3, everything); err != nil {
		t.Fatal(err)
	}
	theirs3.Close()
	three.write("c\n")
	three.until("got c\n")
	two.until("got c\n")
	// Nobody reads what a client sends that has no part in the input.
	two.write("ignored\n")
	two.closeWrite()
	three.write("d\n")
	two.until("got d\n")
	if err := c.Signal(f.ctx, 15); err != nil {
		t.Fatal(err)
	}
	if x := f.exit(c); x.Code != 143 {
		t.Errorf("exit %+v", x)
	}
	if _, err := c.Attach(f.ctx, theirs3, everything); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("attach to a dead container: %v", err)
	}
}

func TestStdinOnce(t *testing.T) {
	f := setUp(t)
	for _, how := range []string{"half-closed", "closed", "killed with input pending"} {
		conf := f.container("cat; echo end; exit 6")
		conf.OpenStdin, conf.StdinOnce = true, true
		peer, theirs := f.pair()
		c := f.start(conf, AttachStream{theirs, everything})
		peer.write("hello\n")
		switch how {
		case "half-closed":
			peer.closeWrite()
			if out, _ := frames(t, peer.rest()); out != "hello\nend\n" {
				t.Errorf("%s: %q", how, out)
			}
		case "closed":
			peer.until("hello")
			peer.conn.Close()
		default:
			peer.conn.Close()
		}
		if x := f.exit(c); x.Code != 6 {
			t.Errorf("%s: exit %+v", how, x)
		}
		if out, _ := readLog(t, conf.Log.Path); out != "hello\nend\n" {
			t.Errorf("%s: log %q", how, out)
		}
	}
	// Without OpenStdin there is nothing to read.
	peer, theirs := f.pair()
	c := f.start(f.container("cat; exit 3"), AttachStream{theirs, everything})
	peer.rest()
	if x := f.exit(c); x.Code != 3 {
		t.Errorf("exit %+v", x)
	}
}

// A megabyte of input goes through a pipe of 64 KiB that is read slowly.
func TestMuchInput(t *testing.T) {
	f := setUp(t)
	conf := f.container("sleep 0.3; sha256sum")
	conf.OpenStdin, conf.StdinOnce = true, true
	peer, theirs := f.pair()
	f.start(conf, AttachStream{theirs, everything})
	data := strings.Repeat("0123456789abcdef\n", 300_000)
	go func() {
		io.WriteString(peer.conn, data)
		peer.closeWrite()
	}()
	out, _ := frames(t, peer.rest())
	if want := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(data))); out != want {
		t.Errorf("%q, not %q", out, want)
	}
}

func TestMuchOutput(t *testing.T) {
	f := setUp(t)
	const size = 100 << 20
	conf := f.container(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x | tee /dev/stderr", size/2))
	conf.Log.Driver = "none"
	peer, theirs := f.pair()
	c := f.start(conf, AttachStream{theirs, everything})
	var n [3]int
	header := make([]byte, 8)
	hash := sha256.New()
	began := time.Now()
	for {
		if _, err := io.ReadFull(peer.conn, header); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		size := int(header[4])<<24 | int(header[5])<<16 | int(header[6])<<8 | int(header[7])
		n[header[0]] += size
		if _, err := io.CopyN(hash, peer.conn, int64(size)); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	want := sha256.New()
	block := []byte(strings.Repeat("x", 1<<20))
	for range size >> 20 {
		want.Write(block)
	}
	if n[1] != size/2 || n[2] != size/2 || string(hash.Sum(nil)) != string(want.Sum(nil)) {
		t.Errorf("%d and %d bytes", n[1], n[2])
	}
	if x := f.exit(c); x.Code != 0 {
		t.Errorf("exit %+v", x)
	}
	t.Logf("100 MiB attached in %v", took.Round(time.Millisecond))
}

// A client that does not read slows the container down, and does not lose anything; one that dies does not matter.
func TestSlowClient(t *testing.T) {
	f := setUp(t)
	mark := filepath.Join(t.TempDir(), "mark")
	conf := f.container("head -c 2000000 /dev/zero | tr '\\0' x; echo end; : > " + mark)
	peer, theirs := f.pair()
	dead, theirsDead := f.pair()
	c := f.start(conf, AttachStream{theirs, everything}, AttachStream{theirsDead, everything})
	dead.until("xxx")
	dead.conn.Close()
	time.Sleep(300 * time.Millisecond)
	if _, err := os.Stat(mark); err == nil {
		t.Error("the container was not slowed down")
	}
	out, _ := frames(t, peer.rest())
	if len(out) != 2000000+4 || !strings.HasSuffix(out, "xend\n") {
		t.Errorf("%d bytes", len(out))
	}
	if x := f.exit(c); x.Code != 0 {
		t.Errorf("exit %+v", x)
	}
	if logged, _ := readLog(t, conf.Log.Path); logged != out {
		t.Errorf("%d bytes were logged", len(logged))
	}
}

// A client that never reads delays the exit for a while and no longer. What was printed before the end is in the log,
// and is still there for the client when it does read.
func TestStuckClient(t *testing.T) {
	f := setUp(t)
	conf := f.container("head -c 120000 /dev/zero | tr '\\0' x; echo end")
	// As much as a socket holds in whatever pieces it comes: more would rightly hold the container up for ever.
	peer, theirs := f.pair()
	c := f.start(conf, AttachStream{theirs, everything})
	f.exit(c)
	if logged, _ := readLog(t, conf.Log.Path); len(logged) != 120004 {
		t.Errorf("%d bytes were logged", len(logged))
	}
	if out, _ := frames(t, peer.rest()); len(out) != 120004 {
		t.Errorf("the client got %d bytes", len(out))
	}
	f.gone(c.Info().MonitorPid)
}

// Somebody in the background holds the output open.
func TestBackgroundHolder(t *testing.T) {
	f := setUp(t)
	conf := f.container("sleep 1000 & echo $!; exit 3")
	peer, theirs := f.pair()
	began := time.Now()
	c := f.start(conf, AttachStream{theirs, AttachOptions{Stdout: true}})
	if x := f.exit(c); x.Code != 3 {
		t.Errorf("exit %+v", x)
	}
	if d := time.Since(began); d < drainTime {
		t.Errorf("the exit took %v", d)
	}
	var pid int
	if _, err := fmt.Sscan(peer.rest(), &pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("the exit was told after the end of who holds the output: %v", err)
	}
}

func TestTerminal(t *testing.T) {
	f := setUp(t)
	conf := f.container("stty -echo; trap 'stty size' WINCH; echo ready; while :; do read line && echo got $line; done")
	conf.Terminal, conf.OpenStdin = true, true
	conf.Spec.Process.Terminal = true
	peer, theirs := f.pair()
	c := f.start(conf, AttachStream{theirs, AttachOptions{Stdin: true, Stdout: true, Stderr: true, Mux: true,
		DetachKeys: []byte("\x10\x11"), Rows: 11, Cols: 22}})
	peer.until("ready\r\n")
	peer.write("a\n")
	peer.until("got a\r\n")
	if err := c.Resize(f.ctx, "", 33, 44); err != nil {
		t.Fatal(err)
	}
	peer.write("b\n")
	peer.until("33 44\r\n")
	peer.write("c\n")
	peer.until("got c\r\n")
	// Keys that are not the whole sequence reach the program.
	peer.write("x\x10")
	peer.write("y\n")
	peer.until("got x\x10y\r\n")
	peer.write("z\x10\x11")
	peer.rest()
	if e := f.event(c); e.Kind != EventDetach || e.ExecID != "" {
		t.Errorf("event %+v", e)
	}
	again, theirs2 := f.pair()
	if _, err := c.Attach(f.ctx, theirs2, AttachOptions{Stdin: true, Stdout: true, DetachKeys: []byte("\x10\x11")}); err != nil {
		t.Fatal(err)
	}
	theirs2.Close()
	again.write("1\n")
	again.until("got z1\r\n")
	if err := c.Signal(f.ctx, 9); err != nil {
		t.Fatal(err)
	}
	again.rest()
	if x := f.exit(c); x.Code != 137 {
		t.Errorf("exit %+v", x)
	}
	if out, _ := readLog(t, conf.Log.Path); !strings.HasSuffix(out, "got z1\r\n") {
		t.Errorf("log %q", out)
	}
}

// A first process may close its terminal for a while.
func TestTerminalReopened(t *testing.T) {
	f := setUp(t)
	conf := f.container("t=$(tty); echo one; exec <&- >&- 2>&-; sleep 0.3; exec >$t; echo two")
	conf.Terminal = true
	peer, theirs := f.pair()
	c := f.start(conf, AttachStream{theirs, AttachOptions{Stdout: true}})
	if got := peer.rest(); got != "one\r\ntwo\r\n" {
		t.Errorf("%q", got)
	}
	f.exit(c)
}

func TestExec(t *testing.T) {
	f := setUp(t)
	c := f.start(f.container("sleep 60"))
	run := func(e ExecConfig, o AttachOptions, use func(*peer)) (string, Event) {
		t.Helper()
		peer, theirs := f.pair()
		started, err := c.Exec(f.ctx, e, theirs, o)
		if err != nil || started.Pid <= 1 {
			t.Fatal(started, err)
		}
		theirs.Close()
		if use != nil {
			use(peer)
		}
		out := peer.rest()
		return out, f.event(c)
	}
	out, e := run(ExecConfig{ID: "1", Process: command("echo out; echo err >&2; exit 9")}, everything, nil)
	if o, errs := frames(t, out); o != "out\n" || errs != "err\n" {
		t.Errorf("%q, %q", o, errs)
	}
	if e.Kind != EventExecExit || e.ExecID != "1" || e.Exit.Code != 9 || e.Exit.FinishedAt.IsZero() {
		t.Errorf("event %+v", e)
	}
	out, e = run(ExecConfig{ID: "2", Process: command("cat"), OpenStdin: true}, everything, func(p *peer) {
		p.write("typed")
		p.closeWrite()
	})
	if o, _ := frames(t, out); o != "typed" || e.Exit.Code != 0 {
		t.Errorf("%q, %+v", o, e)
	}
	out, e = run(ExecConfig{ID: "3", Process: command("stty -echo; echo ready; read x; stty size; echo $x; exit 1"), Terminal: true,
		OpenStdin: true}, AttachOptions{Stdin: true, Stdout: true, Rows: 5, Cols: 6}, func(p *peer) {
		p.until("ready\r\n")
		if err := c.Resize(f.ctx, "3", 7, 8); err != nil {
			t.Error(err)
		}
		p.write("hi\n")
	})
	if out != "7 8\r\nhi\r\n" || e.Exit.Code != 1 {
		t.Errorf("%q, %+v", out, e)
	}
	// The exit code comes with the stream to those who ask for it, of a terminal too.
	for _, terminal := range []bool{false, true} {
		o := everything
		o.Exit, o.Stdin = true, false
		out, e = run(ExecConfig{ID: "coded", Process: command("echo out; exit 77"), Terminal: terminal}, o, nil)
		said := "out\n"
		if terminal {
			said = "out\r\n"
		}
		if want := "\x01\x00\x00\x00\x00\x00\x00" + string(rune(len(said))) + said + "\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x4d"; out != want || e.Exit.Code != 77 {
			t.Errorf("terminal %v: %q, %+v", terminal, out, e)
		}
	}
	if !c.Info().TellsExit {
		t.Error("the monitor does not say that it tells exit codes")
	}
	// Detached from its keys, an exec goes on; its signal reaches it.
	_, e = run(ExecConfig{ID: "4", Process: command("echo ready; sleep 60"), Terminal: true, OpenStdin: true},
		AttachOptions{Stdin: true, Stdout: true, DetachKeys: []byte("q")}, func(p *peer) {
			p.until("ready\r\n")
			p.write("q")
		})
	if e.Kind != EventDetach || e.ExecID != "4" {
		t.Errorf("event %+v", e)
	}
	if err := c.SignalExec(f.ctx, "4", 15); err != nil {
		t.Fatal(err)
	}
	if e := f.event(c); e.Kind != EventExecExit || e.Exit.Code != 143 || e.Exit.Signal != 15 {
		t.Errorf("event %+v", e)
	}
	// Nobody attached.
	if _, err := c.Exec(f.ctx, ExecConfig{ID: "5", Process: command("echo lost; exit 2")}, nil, AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := f.event(c); e.ExecID != "5" || e.Exit.Code != 2 {
		t.Errorf("event %+v", e)
	}
	var failed *StartError
	if _, err := c.Exec(f.ctx, ExecConfig{ID: "6", Process: command("")}, nil, AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	f.event(c)
	missing := command("")
	missing.Args[0] = "/missing"
	peer, theirs := f.pair()
	if _, err := c.Exec(f.ctx, ExecConfig{ID: "7", Process: missing}, theirs, everything); !errors.As(err, &failed) || failed.Code != 125 {
		t.Errorf("%v", err)
	}
	theirs.Close()
	if got := peer.rest(); got != "" {
		t.Errorf("%q", got)
	}
	if err := c.SignalExec(f.ctx, "none", 9); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if err := c.Resize(f.ctx, "", 1, 1); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("%v", err)
	}
	if err := c.Signal(f.ctx, 1000); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("%v", err)
	}
	// A document larger than a message.
	big := command("exit ${#BIG}")
	big.Env = append(big.Env, "BIG="+strings.Repeat("x", 100_000))
	if _, err := c.Exec(f.ctx, ExecConfig{ID: "8", Process: big}, nil, AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := f.event(c); e.ExecID != "8" || e.Exit.Code != 100_000&0xff {
		t.Errorf("event %+v", e)
	}
	// The container's end is not told before the end of its execs.
	if _, err := c.Exec(f.ctx, ExecConfig{ID: "9", Process: command("sleep 60")}, nil, AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.SignalExec(f.ctx, "9", 9); err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(f.ctx, 9); err != nil {
		t.Fatal(err)
	}
	if e := f.event(c); e.ExecID != "9" || e.Exit.Code != 137 {
		t.Errorf("event %+v", e)
	}
	if e := f.event(c); e.Kind != EventExit || e.Exit.Code != 137 {
		t.Errorf("event %+v", e)
	}
}

// Becoming small changes nothing that anybody can see.
func TestSlim(t *testing.T) {
	f := setUp(t)
	conf := f.container("while read line; do echo got $line; printf 'half '; done; echo end; exit 8")
	conf.OpenStdin, conf.StdinOnce = true, true
	conf.Note = []byte{0, 1, 2}
	peer, theirs := f.pair()
	c := f.start(conf, AttachStream{theirs, everything})
	pid := c.Info().MonitorPid
	peer.write("a\n")
	peer.until("half ")
	execPeer, theirs2 := f.pair()
	if _, err := c.Exec(f.ctx, ExecConfig{ID: "e", Process: command("stty -echo; echo ready; while read x; do echo exec $x; done"),
		Terminal: true, OpenStdin: true}, theirs2, AttachOptions{Stdin: true, Stdout: true, DetachKeys: []byte("xyz")}); err != nil {
		t.Fatal(err)
	}
	theirs2.Close()
	execPeer.until("ready")
	execPeer.write("1xy") // held back, across the change
	late, theirs3 := f.pair()
	done, err := c.Attach(f.ctx, theirs3, AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	theirs3.Close()
	f.slim(pid)
	execPeer.write("2\n")
	execPeer.until("exec 1xy2\r\n")
	execPeer.write("xyz")
	execPeer.rest()
	if e := f.event(c); e.Kind != EventDetach || e.ExecID != "e" {
		t.Errorf("event %+v", e)
	}
	peer.write("b\n")
	peer.until("got b\n")
	late.until("got b\n")
	again, err := Dial(f.ctx, conf.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, want := again.Info(), c.Info(); got.Pid != want.Pid || got.MonitorPid != want.MonitorPid ||
		!got.StartedAt.Equal(want.StartedAt) || string(got.Note) != string(want.Note) {
		t.Errorf("info %+v, was %+v", got, want)
	}
	if err := again.SignalExec(f.ctx, "e", 9); err != nil {
		t.Error(err)
	}
	if e := f.event(c); e.ExecID != "e" || e.Exit.Code != 137 {
		t.Errorf("event %+v", e)
	}
	peer.closeWrite()
	peer.rest()
	late.rest()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if x := f.exit(c); x.Code != 8 {
		t.Errorf("exit %+v", x)
	}
	if x := f.exit(again); x.Code != 8 {
		t.Errorf("exit %+v", x)
	}
	if out, _ := readLog(t, conf.Log.Path); out != "got a\nhalf got b\nhalf end\n" {
		t.Errorf("log %q", out)
	}
}

func TestLogRotatesAndCompresses(t *testing.T) {
	f := setUp(t)
	conf := f.container("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; until ls log.*.gz >/dev/null 2>&1; do sleep 0.05; done; echo one more")
	conf.Spec.Process.Args[2] = "cd " + filepath.Dir(conf.Log.Path) + "; " + conf.Spec.Process.Args[2]
	conf.Log.MaxSize, conf.Log.MaxFile, conf.Log.Compress = 50_000, 4, true
	c := f.start(conf)
	f.exit(c)
	out, _ := readLog(t, conf.Log.Path)
	if !strings.HasSuffix(out, "line 2999\none more\n") {
		t.Errorf("log ends in %q", out[max(0, len(out)-40):])
	}
	if z, _ := filepath.Glob(conf.Log.Path + ".*.gz"); len(z) == 0 {
		t.Error("nothing was compressed")
	}
	// The exit ends a compressor at work: what it was making stays for the next run to make, and of a file there may be both forms.
	files, _ := filepath.Glob(conf.Log.Path + "*")
	for i := range files {
		files[i] = strings.TrimSuffix(files[i], ".gz")
	}
	slices.Sort(files)
	files = slices.DeleteFunc(slices.Compact(files), func(name string) bool { return name == conf.Log.Path+".compressing" })
	if len(files) > 4 {
		t.Errorf("files %v", files)
	}
}

func TestManyRounds(t *testing.T) {
	f := setUp(t)
	before := countFiles(t)
	rounds := 200
	if testing.Short() { // under the race detector each takes half a second
		rounds = 15
	}
	for i := range rounds {
		conf := f.container(fmt.Sprintf("echo %d; exit %d", i, i%256))
		peer, theirs := f.pair()
		client, started, err := f.launcher.Start(f.ctx, conf, Files{}, []AttachStream{{theirs, everything}})
		if err != nil {
			t.Fatal(err)
		}
		if out, _ := frames(t, peer.rest()); out != fmt.Sprintf("%d\n", i) {
			t.Fatalf("round %d: %q", i, out)
		}
		if x := f.exit(client); x.Code != i%256 {
			t.Fatalf("round %d: %+v", i, x)
		}
		f.gone(started.MonitorPid)
		client.Close()
		peer.conn.Close()
	}
	// A monitor's process is let go in the background.
	after := 0
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if after = countFiles(t); after <= before+2 {
			return
		}
	}
	t.Errorf("%d files open, %d before", after, before)
}

func countFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A monitor that comes late, because the machine is busy or its disk slow, loses nothing of what was written.
func TestLateMonitorReadsWhatIsThere(t *testing.T) {
	m, err := newMonitor(plainBackend())
	if err != nil {
		t.Fatal(err)
	}
	if m.mem, err = newScratch(0); err != nil {
		t.Fatal(err)
	}
	m.init = newProc(m, "")
	p := newProc(m, "exec")
	m.execs = append(m.execs, p)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1]) // somebody holds it open
	p.out[0].fd = pipe[0]
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.attach(p, pair[0], AttachOptions{Stdout: true}, nil, 1); err != nil {
		t.Fatal(err)
	}
	n, err := unix.Write(pipe[1], make([]byte, 1<<20)) // as much as it takes
	if err != nil || n == 0 {
		t.Fatal(n, err)
	}
	p.exited, p.deadline = true, time.Now().Add(-time.Second)
	got := make(chan int, 1)
	go func() {
		client := os.NewFile(uintptr(pair[1]), "client")
		defer client.Close()
		all, _ := io.Copy(io.Discard, client)
		got <- int(all)
	}()
	for p.check(time.Now()); len(m.lingering) > 0; {
		if err := m.poll.wait(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if all := <-got; all != n {
		t.Errorf("the client got %d bytes of %d", all, n)
	}
}
