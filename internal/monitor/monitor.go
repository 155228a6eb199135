package monitor

import (
	"os"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/logfile"
	"golang.org/x/sys/unix"
)

const (
	// drainTime is how long the output of a process that has ended is waited for while somebody else may still write.
	drainTime = 2 * time.Second
	// lingerTime is how long a client may take nothing at all before it is given up, after its process has ended.
	lingerTime = 10 * time.Second
	// slimAfter is how long after a start or an exec the monitor becomes small: not while many containers are being
	// started, and not for those that end soon.
	slimAfter = 2 * time.Second
	// restAfter is how long after the last work the buffers are given back.
	restAfter = time.Second
	// maxConns bounds the daemons that are connected at the same time.
	maxConns = 16
	// maxEvents bounds what is kept for a later daemon.
	maxEvents = 256
)

// monitor is the process side: one goroutine, one loop. Only the start of an exec runs beside it.
type monitor struct {
	rt   backend
	poll *poller
	mem  *scratch

	// What follows survives becoming small.
	id        string
	dir       string
	pid       int // of the container
	startedAt time.Time
	cgroup    string
	killRest  bool // the container shares its pid namespace with others
	log       LogConfig
	warnings  []string
	note      []byte
	oomKills  uint64 // counted by the kernel
	oomTold   uint64 // known to those who were told
	seq       uint64
	events    []event // not acknowledged
	listener  listener
	oom       oomWatch
	conns     []*conn
	init      *proc
	execs     []*proc
	requests  int // since it became small

	writer     *logfile.Writer // nil: no log
	compressor compressor
	jobs       chan execResult
	jobsFd     jobsWatch
	jobsOpen   int // execs being started
	host       *cgroup.Host
	lingering  []*stream // of processes that have been told of already
	gone       bool      // the exit has been told: only what is left to send is sent
	fatSince   time.Time // when memory was last used that becoming small would free; zero: it is small
	restAt     time.Time // when the buffers go back
}

// event is an event that waits to be acknowledged.
type event struct {
	seq uint64
	Event
}

func newMonitor(rt backend) (*monitor, error) {
	m := &monitor{rt: rt}
	var err error
	if m.poll, err = newPoller(); err != nil {
		return nil, err
	}
	m.listener.m, m.listener.fd = m, -1
	m.oom.m, m.oom.fd = m, -1
	m.compressor.m, m.compressor.fd = m, -1
	m.jobsFd.m, m.jobsFd.fd = m, -1
	return m, nil
}

// run is the loop. It returns the exit code of the process.
func (m *monitor) run() int {
	for {
		now := time.Now()
		m.deadlines(now)
		if m.gone && m.finished() {
			return 0
		}
		if err := m.poll.wait(m.next()); err != nil {
			return fail(err)
		}
		if m.mem.dirty && m.restAt.IsZero() {
			m.restAt = time.Now().Add(restAfter)
		}
	}
}

// next is when deadlines must be called again; zero is never.
func (m *monitor) next() time.Time {
	var t time.Time
	earlier := func(o time.Time) {
		if !o.IsZero() && (t.IsZero() || o.Before(t)) {
			t = o
		}
	}
	earlier(m.restAt)
	if !m.fatSince.IsZero() && !m.init.exited {
		earlier(m.fatSince.Add(m.rt.slimAfter))
	}
	earlier(m.init.deadline)
	for _, p := range m.execs {
		earlier(p.deadline)
	}
	for _, s := range m.lingering {
		earlier(s.moved.Add(lingerTime))
	}
	if m.gone {
		for _, c := range m.conns {
			earlier(c.deadline)
		}
	}
	return t
}

// deadlines does what it is time for.
func (m *monitor) deadlines(now time.Time) {
	reached := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if reached(m.restAt) {
		m.restAt = time.Time{}
		m.mem.release()
	}
	for i := len(m.execs) - 1; i >= 0; i-- {
		m.execs[i].check(now)
	}
	m.init.check(now)
	for i := len(m.lingering) - 1; i >= 0; i-- {
		if s := m.lingering[i]; reached(s.moved.Add(lingerTime)) {
			s.drop(endClosed)
		}
	}
	if m.gone {
		for i := len(m.conns) - 1; i >= 0; i-- {
			if reached(m.conns[i].deadline) {
				m.conns[i].drop()
			}
		}
	}
	if !m.fatSince.IsZero() && reached(m.fatSince.Add(m.rt.slimAfter)) {
		if m.quiet() {
			m.slim() // comes back only if that cannot be done now
		}
		m.fatSince = now
	}
}

// finished reports whether everybody has got everything.
func (m *monitor) finished() bool {
	if len(m.lingering) > 0 {
		return false
	}
	for _, c := range m.conns {
		if len(c.queue) > 0 {
			return false
		}
	}
	return true
}

// fat notes that memory was used which becoming small would free.
func (m *monitor) fat() {
	if m.fatSince.IsZero() {
		m.fatSince = time.Now()
	}
}

// group is the container's cgroup, nil if it has none.
func (m *monitor) group() *cgroup.Group {
	if m.cgroup == "" {
		return nil
	}
	if m.host == nil {
		m.fat()
		h, err := cgroup.Detect()
		if err != nil {
			m.complain(err)
			return nil
		}
		m.host = h
	}
	return m.host.Open(m.cgroup)
}

// complain puts an error where a person may find it: nobody waits for it.
func (m *monitor) complain(err error) {
	os.Stderr.WriteString(time.Now().UTC().Format(time.RFC3339) + " " + err.Error() + "\n")
}

// proc finds a running process; "" is the container's own.
func (m *monitor) proc(execID string) *proc {
	if execID == "" {
		if m.init.exited {
			return nil
		}
		return m.init
	}
	for _, p := range m.execs {
		if p.id == execID && !p.exited {
			return p
		}
	}
	return nil
}

// tell sends an event to every connection and keeps it until it is acknowledged.
func (m *monitor) tell(e Event) {
	m.seq++
	ev := event{m.seq, e}
	if e.Kind != EventExit {
		if len(m.events) == maxEvents {
			m.events = append(m.events[:0], m.events[1:]...)
		}
		m.events = append(m.events, ev)
	}
	for i := len(m.conns) - 1; i >= 0; i-- {
		m.conns[i].event(ev)
	}
}

// acknowledged forgets events up to seq.
func (m *monitor) acknowledged(seq uint64) {
	n := 0
	for n < len(m.events) && m.events[n].seq <= seq {
		n++
	}
	m.events = append(m.events[:0], m.events[n:]...)
}

// oomWatch waits for the kernel to say that memory ran out.
type oomWatch struct {
	watched
	m *monitor
}

func (w *oomWatch) ready(uint32) {
	m := w.m
	var buf [512]byte
	n, err := read(w.fd, buf[:])
	if n == 0 && err != unix.EAGAIN {
		m.poll.drop(&w.watched)
		return
	}
	m.countOOM()
	// The eventfd of cgroup v1 (which reads as 8 bytes) speaks before the kernel kills, so the count may lag behind
	// it. The file of v2 changes for other reasons as well.
	if n == 8 || m.oomKills > m.oomTold {
		m.tellOOM()
	}
}

// countOOM asks how many processes were killed for want of memory.
func (m *monitor) countOOM() {
	if g := m.group(); g != nil {
		if n, err := g.OOMCount(); err == nil && n > m.oomKills { // an error: the group is on its way out
			m.oomKills = n
		}
	}
}

func (m *monitor) tellOOM() {
	m.oomTold = max(m.oomTold+1, m.oomKills)
	m.tell(Event{Kind: EventOOM, Exit: Exit{OOMKilled: true, OOMKills: m.oomKills}})
}

// watchOOM is called once the container runs: what happened before is counted at its end.
func (m *monitor) watchOOM(g *cgroup.Group) {
	f, err := g.OOMEvent()
	if err != nil {
		return // without the controller there is nothing to watch
	}
	if m.oom.fd, err = take(f); err == nil {
		err = m.poll.want(&m.oom.watched, &m.oom, unix.EPOLLIN)
	}
	if err != nil {
		m.complain(err)
	}
}
