package sdbus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// answer makes a message of the other side.
func answer(kind byte, to uint32, member, errorName, signature string, body func(e *encoder)) []byte {
	e := &encoder{b: []byte{'l', kind, 1, 1}}
	b := &encoder{}
	if body != nil {
		body(b)
	}
	e.u32(uint32(len(b.b)))
	e.u32(7)
	e.array(8, func() {
		field := func(code byte, sig string, put func()) {
			e.align(8)
			e.b = append(e.b, code)
			e.signature(sig)
			put()
		}
		if to != 0 {
			field(fieldReplySerial, "u", func() { e.u32(to) })
		}
		if kind == typeSignal {
			field(fieldPath, "o", func() { e.str("/org/freedesktop/systemd1") })
			field(fieldInterface, "s", func() { e.str("org.freedesktop.systemd1.Manager") })
			field(fieldMember, "s", func() { e.str(member) })
		}
		if errorName != "" {
			field(fieldErrorName, "s", func() { e.str(errorName) })
		}
		if signature != "" {
			field(fieldSignature, "g", func() { e.signature(signature) })
		}
	})
	e.align(8)
	return append(e.b, b.b...)
}

func removed(job, result string) []byte {
	return answer(typeSignal, 0, "JobRemoved", "", "uoss", func(e *encoder) {
		e.u32(1)
		e.str(job)
		e.str("a.scope")
		e.str(result)
	})
}

func pair(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	for _, f := range []*os.File{ours, theirs} {
		if err := f.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	return ours, theirs
}

type script struct {
	member string
	reply  func(serial uint32) []byte
}

// serve logs the client in and answers its calls; what it was called with comes back.
func serve(t *testing.T, f *os.File, steps []script) <-chan []*message {
	t.Helper()
	done := make(chan []*message, 1)
	go func() {
		var got []*message
		defer func() { done <- got }()
		in := bufio.NewReader(f)
		hello, err := in.ReadString('\n')
		if err != nil || !strings.HasPrefix(hello, "\x00AUTH EXTERNAL ") {
			t.Errorf("%q, %v", hello, err)
			return
		}
		// Before the answer: systemd would wait for more if it read BEGIN and the first call in one piece.
		if begin, err := in.ReadString('\n'); err != nil || begin != "BEGIN\r\n" {
			t.Errorf("%q, %v", begin, err)
			return
		}
		if _, err := io.WriteString(f, "OK 0123456789abcdef\r\n"); err != nil {
			t.Error(err)
			return
		}
		for i, s := range steps {
			m, err := readMessage(in)
			if err != nil || m.kind != typeCall || m.member != s.member {
				t.Errorf("call %d: %+v, %v", i, m, err)
				return
			}
			got = append(got, m)
			if _, err := f.Write(s.reply(uint32(i + 1))); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	return done
}

func job(serial uint32, path string) []byte {
	return answer(typeReply, serial, "", "", "o", func(e *encoder) { e.str(path) })
}

func refusal(name, text string) func(uint32) []byte {
	return func(serial uint32) []byte {
		return answer(typeError, serial, "", name, "s", func(e *encoder) { e.str(text) })
	}
}

func done(serial uint32) []byte { return answer(typeReply, serial, "", "", "", nil) }

func TestLifeOfAUnit(t *testing.T) {
	ours, theirs := pair(t)
	const gone = "org.freedesktop.systemd1.NoSuchUnit"
	calls := serve(t, theirs, []script{
		{"StartTransientUnit", func(n uint32) []byte { // another's job ends, ours ends before its reply
			return bytes.Join([][]byte{removed("/other", "failed"), removed("/job/1", "done"), job(n, "/job/1")}, nil)
		}},
		{"SetUnitProperties", done},
		{"StopUnit", func(n uint32) []byte { return append(job(n, "/job/2"), removed("/job/2", "done")...) }},
		{"ResetFailedUnit", refusal(gone, "Unit a.scope not loaded.")},
		{"StopUnit", refusal(gone, "Unit a.scope not loaded.")},
		{"ResetFailedUnit", done},
		{"StartTransientUnit", refusal("org.freedesktop.systemd1.UnitExists", "Unit a.scope was already loaded.")},
		{"StartTransientUnit", func(n uint32) []byte { return append(job(n, "/job/3"), removed("/job/3", "failed")...) }},
		{"StartTransientUnit", refusal("org.freedesktop.DBus.Error.AccessDenied", "no, you do not")},
	})
	c, err := open(ours, os.Getuid(), false)
	if err != nil {
		t.Fatal(err)
	}
	list := []Property{{"Slice", "x.slice"}, {"Delegate", true}, {"MemoryMax", uint64(1) << 40}, {"PIDs", []uint32{5, 6}},
		{"AllowedCPUs", []byte{1, 2, 3}}}
	if err := c.Start("a.scope", list); err != nil {
		t.Error(err)
	}
	if err := c.Set("a.scope", list[2:3]); err != nil {
		t.Error(err)
	}
	if err := c.Set("a.scope", nil); err != nil { // no call
		t.Error(err)
	}
	for range 2 {
		if err := c.Stop("a.scope"); err != nil {
			t.Error(err)
		}
	}
	if err := c.Start("a.scope", nil); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if err := c.Start("a.scope", nil); err == nil || !strings.Contains(err.Error(), `ended with "failed"`) {
		t.Error(err)
	}
	if err := c.Start("a.scope", nil); err == nil || !strings.Contains(err.Error(), "no, you do not") {
		t.Error(err)
	}
	if err := c.Start("a.scope", []Property{{"Odd", 3}}); err == nil || !strings.Contains(err.Error(), `"Odd"`) {
		t.Error(err)
	}
	got := <-calls
	if len(got) != 9 {
		t.Fatal(len(got))
	}
	if m := got[0]; m.signature != "ssa(sv)a(sa(sv))" || m.iface != manager().iface {
		t.Errorf("%+v", m)
	}
	// The whole of a small body, by hand.
	want := []byte("\x07\x00\x00\x00a.scope\x00" + "\x01\x00\x00\x00" + // 0: name, 12: runtime
		"\x20\x00\x00\x00" + "\x00\x00\x00\x00" + // 16: length of the array, padding
		"\x09\x00\x00\x00MemoryMax\x00" + "\x01t\x00" + "\x00\x00\x00\x00\x00\x00\x00" + // 24: name, 38: type, padding to 48
		"\x00\x00\x00\x00\x00\x01\x00\x00")
	if !bytes.Equal(got[1].body.b, want) {
		t.Errorf("got  %q\nwant %q", got[1].body.b, want)
	}
}

func TestRefusedLogin(t *testing.T) {
	ours, theirs := pair(t)
	if _, err := io.WriteString(theirs, "REJECTED EXTERNAL\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := open(ours, os.Getuid(), false); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
}

func TestWithoutSystemd(t *testing.T) {
	if _, err := os.Stat(booted); err == nil {
		t.Skip("systemd runs this machine")
	}
	_, err := Dial(context.Background())
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "leave --systemd-cgroup out") {
		t.Error(err)
	}
}

// A bus checks every message that it passes on, and hangs up on one that is malformed.
func TestABusTakesOurMessages(t *testing.T) {
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("dbus-daemon is not installed")
	}
	socket := t.TempDir() + "/bus"
	config := t.TempDir() + "/config"
	if err := os.WriteFile(config, []byte(`<busconfig><listen>unix:path=`+socket+`</listen><policy context="default">`+
		`<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+config, "--nofork", "--nopidfile", "--nosyslog", "--print-address")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it listens
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	f, err := connect(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Hello and AddMatch are the bus's own; Subscribe would be for systemd, who is not there.
	if _, err := open(f, os.Getuid(), true); !absent(err) {
		t.Fatal(err)
	}
	c := &Conn{file: f, in: bufio.NewReader(f), serial: 10, jobs: map[string]string{}}
	list := []Property{{"Slice", "x.slice"}, {"Delegate", true}, {"MemoryMax", uint64(1) << 40}, {"PIDs", []uint32{5, 6}},
		{"AllowedCPUs", []byte{1, 2, 3}}, {"Slice", ""}}
	for range 2 {
		if err := c.Start("a.scope", list); !absent(err) {
			t.Error(err)
		}
		if err := c.Set("a.scope", list); !absent(err) {
			t.Error(err)
		}
		if err := c.Stop("a.scope"); !absent(err) {
			t.Error(err)
		}
	}
}

func absent(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner"
}

func TestBadMessages(t *testing.T) {
	good := removed("/job/1", "done")
	if m, err := readMessage(bytes.NewReader(good)); err != nil || m.member != "JobRemoved" || m.signature != "uoss" {
		t.Fatal(m, err)
	}
	for n := range len(good) {
		if _, err := readMessage(bytes.NewReader(good[:n])); err == nil {
			t.Errorf("cut at %d: no error", n)
		}
	}
	change := func(at int, b ...byte) []byte {
		c := bytes.Clone(good)
		copy(c[at:], b)
		return c
	}
	for name, b := range map[string][]byte{
		"byte order": change(0, 'x'), "version": change(3, 2), "body": change(4, 0, 0, 0x11), "fields": change(12, 0, 0, 2),
		"field of another type": change(18, 'v'), "length of a field": change(20, 0xff, 0xff, 0xff, 0xff),
	} {
		if m, err := readMessage(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func TestBigEndian(t *testing.T) {
	b := []byte{'B', typeReply, 1, 1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 8, fieldReplySerial, 1, 'u', 0, 0, 0, 0, 9, 1, 2, 3, 4}
	m, err := readMessage(bytes.NewReader(b))
	if err != nil || m.replySerial != 9 || m.body.u32() != 0x01020304 || m.body.order != binary.ByteOrder(binary.BigEndian) {
		t.Error(m, err)
	}
}

// fixed is the other side as a file that says what it says.
type fixed struct{ io.Reader }

func (fixed) Write(b []byte) (int, error) { return len(b), nil }
func (fixed) Close() error                { return nil }

func FuzzReplies(f *testing.F) {
	ok := []byte("OK 1\r\n")
	f.Add(append(ok, bytes.Join([][]byte{removed("/j", "done"), job(1, "/j")}, nil)...))
	f.Add(append(ok, refusal("a.b", "text")(1)...))
	f.Add([]byte("REJECTED\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := open(fixed{bytes.NewReader(data)}, 0, false)
		if err != nil {
			return
		}
		_ = c.Start("a.scope", nil)
		// What can be read can be read in any pieces.
		one, err1 := readMessage(bytes.NewReader(data))
		a, b := net.Pipe()
		go func() {
			for i := 0; i < len(data); i += 3 {
				if _, err := b.Write(data[i:min(i+3, len(data))]); err != nil {
					return
				}
			}
			b.Close()
		}()
		two, err2 := readMessage(a)
		a.Close()
		if (err1 == nil) != (err2 == nil) || err1 == nil && !reflect.DeepEqual(one, two) {
			t.Errorf("%+v, %v; %+v, %v", one, err1, two, err2)
		}
	})
}
