package monitor

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/logfile"
	"github.com/berth-engine/berth/internal/tty"
	"golang.org/x/sys/unix"
)

// Becoming small is an execve of this very program: its memory is given back at once, while children, descriptors and
// the pid stay. What it must know afterwards is written into a memfd, in the fields of messages, in the order below.
// Writer and reader are the same file, so there is no version.

// quiet reports whether nothing is under way that could not be handed over.
func (m *monitor) quiet() bool {
	if m.gone || m.init.exited || m.jobsOpen > 0 || len(m.lingering) > 0 || m.compressor.fd >= 0 {
		return false
	}
	for _, c := range m.conns {
		if len(c.queue) > 0 {
			return false
		}
	}
	for _, p := range append([]*proc{m.init}, m.execs...) {
		if p.exited || len(p.stdin.pending) > 0 {
			return false
		}
		for _, s := range p.stream {
			if len(s.pending) > 0 {
				return false
			}
		}
	}
	return true
}

// slim becomes small. It returns only when that cannot be done, and then nothing has changed.
func (m *monitor) slim() {
	state, keep := m.save()
	fd, err := unix.MemfdCreate("monitor-state", unix.MFD_CLOEXEC)
	if err != nil {
		m.complain(os.NewSyscallError("memfd_create", err))
		return
	}
	defer unix.Close(fd)
	if n, err := write(fd, state); err != nil || n < len(state) {
		m.complain(fmt.Errorf("write the state for becoming small: %d of %d bytes: %w", n, len(state), err))
		return
	}
	keep = append(keep, fd)
	for _, fd := range keep {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
	}
	runtime.LockOSThread()
	linux.Usual()
	err = syscall.Exec(m.rt.exe, []string{"berth-runtime", "monitor", verbWatch, m.id, strconv.Itoa(fd)}, smallEnv())
	runtime.UnlockOSThread()
	for _, fd := range keep {
		unix.CloseOnExec(fd)
	}
	m.complain(fmt.Errorf("become small: %w", err))
}

// saver packs state and collects the descriptors in it.
type saver struct {
	packer
	fds []int
}

func (s *saver) fd(fd int) {
	s.num(uint32(int32(fd)))
	if fd >= 0 {
		s.fds = append(s.fds, fd)
	}
}

func (m *monitor) save() (state []byte, fds []int) {
	s := &saver{}
	s.str(m.id)
	s.str(m.dir)
	s.num(uint32(m.pid))
	s.time(m.startedAt)
	s.str(m.cgroup)
	s.flag(m.killRest)
	s.str(m.log.Driver)
	s.str(m.log.Path)
	s.long(uint64(m.log.MaxSize))
	s.num(uint32(m.log.MaxFile))
	s.flag(m.log.Compress)
	s.bytes(m.log.Attrs)
	for _, stream := range [...]logfile.Stream{logfile.Stdout, logfile.Stderr} {
		if m.writer != nil {
			s.bytes(m.writer.Pending(stream))
		} else {
			s.bytes(nil)
		}
	}
	s.num(uint32(len(m.warnings)))
	for _, w := range m.warnings {
		s.str(w)
	}
	s.bytes(m.note)
	s.long(m.oomKills)
	s.long(m.oomTold)
	s.long(m.seq)
	s.num(uint32(len(m.events)))
	for _, e := range m.events {
		s.long(e.seq)
		s.num(kindNumber(e.Kind))
		s.str(e.ExecID)
		s.exit(e.Exit)
	}
	s.fd(m.listener.fd)
	s.fd(m.oom.fd)
	s.num(uint32(len(m.conns)))
	for _, c := range m.conns {
		s.fd(c.fd)
	}
	s.num(uint32(1 + len(m.execs)))
	for _, p := range append([]*proc{m.init}, m.execs...) {
		s.proc(m, p)
	}
	return s.b, s.fds
}

func (s *saver) proc(m *monitor, p *proc) {
	s.str(p.id)
	s.num(uint32(p.pid))
	s.fd(p.pidfd.fd)
	s.flag(p.terminal)
	s.flag(p.input)
	s.fd(p.peer)
	s.fd(p.stdin.fd)
	s.flag(p.stdin.once)
	for i := range p.out {
		s.fd(p.out[i].fd)
	}
	s.num(uint32(len(p.stream)))
	for _, st := range p.stream {
		s.fd(st.fd)
		owner := -1
		for i, c := range m.conns {
			if c == st.owner {
				owner = i
			}
		}
		s.num(uint32(int32(owner)))
		s.options(st.number, st.o)
		// Keys that may be the beginning of the sequence are typed again.
		var held []byte
		if st.keys != nil {
			held = st.keys.Flush(nil)
			_, _, _ = st.keys.Scan(nil, held)
		}
		s.bytes(held)
	}
}

// errState means that the state is not what this program wrote.
var errState = errors.New("the state handed over makes no sense")

// resume goes on where slim left off.
func resume(fd int, rt backend) (*monitor, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxLarge {
		return nil, errState
	}
	state := make([]byte, st.Size)
	if n, err := unix.Pread(fd, state, 0); err != nil || n < len(state) {
		return nil, errState
	}
	unix.Close(fd)
	m, err := newMonitor(rt)
	if err != nil {
		return nil, err
	}
	return m, m.load(&loader{unpacker{b: state}})
}

// loader unpacks what saver has packed.
type loader struct{ unpacker }

func (l *loader) fd() int {
	fd := int(int32(l.num()))
	if fd >= 0 {
		unix.CloseOnExec(fd)
	}
	return fd
}

func (m *monitor) load(l *loader) (err error) {
	m.id, m.dir = l.str(), l.str()
	m.pid, m.startedAt = int(l.num()), l.time()
	m.cgroup, m.killRest = l.str(), l.flag()
	m.log.Driver, m.log.Path = l.str(), l.str()
	m.log.MaxSize, m.log.MaxFile = int64(l.long()), int(l.num())
	m.log.Compress, m.log.Attrs = l.flag(), l.bytes()
	begun := [2][]byte{l.bytes(), l.bytes()}
	for range l.num() {
		m.warnings = append(m.warnings, l.str())
	}
	m.note = l.bytes()
	m.oomKills, m.oomTold, m.seq = l.long(), l.long(), l.long()
	for range l.num() {
		e := event{seq: l.long()}
		if k := l.num(); int(k) < len(kinds) {
			e.Kind = kinds[k]
		}
		e.ExecID, e.Exit = l.str(), l.exit()
		m.events = append(m.events, e)
	}
	if m.mem, err = newScratch(logfile.BufferSize + len(m.log.Attrs)); err != nil {
		return err
	}
	m.must(m.openLog())
	if m.writer != nil {
		now := time.Now()
		m.writer.Write(logfile.Stdout, begun[0], now)
		m.writer.Write(logfile.Stderr, begun[1], now)
	}
	m.listener.fd = l.fd()
	m.oom.fd = l.fd()
	for range l.num() {
		c := &conn{watched: unwatched(l.fd()), m: m}
		m.conns = append(m.conns, c)
	}
	for i := range l.num() {
		p := l.proc(m)
		if l.bad {
			return errState
		}
		if i == 0 {
			m.init = p
		} else {
			m.execs = append(m.execs, p)
		}
	}
	if l.bad || m.init == nil {
		return errState
	}
	m.must(m.poll.want(&m.listener.watched, &m.listener, unix.EPOLLIN))
	m.must(m.poll.want(&m.oom.watched, &m.oom, unix.EPOLLIN))
	for _, c := range m.conns {
		m.must(m.poll.want(&c.watched, c, unix.EPOLLIN))
	}
	m.init.begin()
	for _, p := range m.execs {
		p.begin()
	}
	return nil
}

func (l *loader) proc(m *monitor) *proc {
	p := newProc(m, l.str())
	p.pid = int(l.num())
	p.pidfd.fd = l.fd()
	p.terminal, p.input = l.flag(), l.flag()
	p.peer = l.fd()
	p.stdin.fd = l.fd()
	p.stdin.once = l.flag()
	for i := range p.out {
		p.out[i].fd = l.fd()
	}
	if p.terminal {
		p.tty = p.out[0].fd
	}
	for range l.num() {
		s := &stream{watched: unwatched(l.fd()), p: p}
		if owner := int(int32(l.num())); owner >= 0 && owner < len(m.conns) {
			s.owner = m.conns[owner]
		}
		s.number, s.o = l.options()
		held := l.bytes()
		if s.o.Stdin && len(s.o.DetachKeys) > 0 {
			s.keys = tty.NewDetachScanner(s.o.DetachKeys)
			_, _, _ = s.keys.Scan(nil, held)
		}
		if l.bad {
			return p
		}
		p.stream = append(p.stream, s)
		s.update()
	}
	return p
}
