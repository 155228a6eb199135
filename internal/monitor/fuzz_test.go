package monitor

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/ocirun"
	"golang.org/x/sys/unix"
)

// requests are messages that make sense, to begin from.
func requests() [][]byte {
	var all [][]byte
	add := func(o op, fields func(*packer)) {
		p := pack(o, 7)
		fields(p)
		all = append(all, p.b)
	}
	add(opAck, func(p *packer) { p.long(3) })
	add(opAttach, func(p *packer) {
		p.options(1, AttachOptions{Stdin: true, Stdout: true, Mux: true, DetachKeys: []byte("ab"), Rows: 1, Cols: 2})
	})
	add(opExec, func(p *packer) {
		p.options(2, AttachOptions{Stdout: true})
		p.str("exec")
		p.num(flagOpenStdin)
		p.str(`{"args":["x"],"cwd":"/","user":{"uid":1}}`)
		p.str("")
	})
	add(opExec, func(p *packer) {
		p.options(2, AttachOptions{})
		p.str("asked")
		p.num(0)
		p.str(`{"args":["x"],"cwd":"/","user":{"uid":1}}`)
		p.str("12345678")
		p.num(8)
		p.str(`{"Path":"/run/agent","Metadata":"m","State":{"annotations":{"a":"b"}}}`)
	})
	add(opSignal, func(p *packer) { p.str(""); p.num(0) })
	add(opResize, func(p *packer) { p.str("exec"); p.num(1); p.num(2) })
	add(opLarge, func(*packer) {})
	add(op(99), func(*packer) {})
	return all
}

// Whatever comes over the socket, the monitor stands.
func FuzzRequest(f *testing.F) {
	for _, r := range requests() {
		f.Add(r, byte(0))
		f.Add(r, byte(1))
		f.Add(r, byte(2))
	}
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { child.Process.Kill(); child.Wait() })
	f.Fuzz(func(t *testing.T, msg []byte, files byte) {
		m, err := newMonitor(backend{exec: func(context.Context, ocirun.ExecOptions) (*ocirun.Process, error) {
			return nil, errors.New("not today")
		}})
		if err != nil {
			t.Fatal(err)
		}
		if m.mem, err = newScratch(4096); err != nil {
			t.Fatal(err)
		}
		m.pid = child.Process.Pid
		m.init = newProc(m, "")
		m.init.input = true
		if m.init.pidfd.fd, err = unix.PidfdOpen(m.pid, 0); err != nil {
			t.Fatal(err)
		}
		a, b, err := linux.SocketPair(unix.SOCK_SEQPACKET)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := take(a)
		if err != nil {
			t.Fatal(err)
		}
		c := m.connect(fd)
		var fds []int
		for range files % 3 {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(pair[1])
			fds = append(fds, pair[0])
		}
		rest, _ := c.request(msg, fds)
		closeAll(rest)
		for m.jobsOpen > 0 {
			if err := m.poll.wait(m.next()); err != nil {
				t.Fatal(err)
			}
		}
		// What arrived is gone again with the monitor.
		for len(m.init.stream) > 0 {
			m.init.stream[0].drop(endClosed)
		}
		c.drop()
		b.Close()
		for _, w := range []*watched{&m.init.pidfd.watched, &m.jobsFd.watched} {
			m.poll.drop(w)
		}
		unix.Close(m.poll.fd)
		unix.Munmap(m.mem.all)
	})
}

// The client trusts its monitor little more.
func FuzzNews(f *testing.F) {
	p := pack(opHello, 0)
	p.num(1)
	p.num(2)
	p.num(3)
	p.long(4)
	p.str("note")
	p.num(1)
	p.str("warning")
	f.Add(p.b)
	p = pack(opEvent, 0)
	p.long(1)
	p.num(2)
	p.str("exec")
	p.exit(Exit{Code: 1})
	f.Add(p.b)
	p = pack(opReply, 1)
	p.num(1126)
	p.str("text")
	f.Add(p.b)
	p = pack(opEnd, 1)
	p.num(1)
	f.Add(p.b)
	f.Fuzz(func(t *testing.T, msg []byte) {
		a, b, err := linux.SocketPair(unix.SOCK_SEQPACKET)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		defer b.Close()
		c := &Client{conn: a, events: make(chan Event, 4), closed: make(chan struct{}), waiting: map[uint32]chan reply{},
			streams: map[uint32]chan error{}}
		_ = c.hello(msg)
		c.message(msg)
	})
}

// The same over the real socket, with descriptors that are no sockets, and more of them than there may be.
func TestHostileBytes(t *testing.T) {
	f := setUp(t)
	conf := f.container("echo ready; read x; exit 5")
	conf.OpenStdin = true
	c := f.start(conf)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	dir, err := os.Open(conf.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	seeds := requests()
	for i := range 2000 {
		fd, err := dial(underDir(int(dir.Fd()), socketName))
		if err != nil {
			b, _ := os.ReadFile(filepath.Join(conf.Dir, errorsName))
			t.Fatalf("round %d: %v; the monitor said: %s", i, err, b)
		}
		conn := os.NewFile(uintptr(fd), "hostile")
		msg := append([]byte(nil), seeds[rnd.IntN(len(seeds))]...)
		for range rnd.IntN(6) {
			switch rnd.IntN(3) {
			case 0:
				msg[rnd.IntN(len(msg))] = byte(rnd.Uint32())
			case 1:
				msg = msg[:1+rnd.IntN(len(msg))]
			case 2:
				msg = append(msg, byte(rnd.Uint32()))
			}
		}
		if len(msg) > 0 && op(msg[0]) == opSignal {
			msg[0] = byte(opAck) // not that one: it might be a good one
		}
		var files []*os.File
		for range rnd.IntN(4) {
			files = append(files, null)
		}
		if i%100 == 0 {
			for range 50 {
				files = append(files, null)
			}
		}
		_, _ = linux.SendMsg(conn, msg, files...)
		conn.Close()
	}
	if b, err := os.ReadFile(filepath.Join(conf.Dir, errorsName)); err != nil || len(b) > 0 {
		t.Errorf("the monitor complained: %s, %v", b, err)
	}
	// Still there, and it has kept nothing.
	peer, theirs := f.pair()
	if _, err := c.Attach(f.ctx, theirs, everything); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	fds, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(c.Info().MonitorPid), "fd"))
	if err != nil || len(fds) > 40 {
		t.Errorf("%d descriptors are open, %v", len(fds), err)
	}
	peer.write("\n")
	if x := f.exit(c); x.Code != 5 {
		t.Errorf("exit %+v", x)
	}
}
