package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/berth-engine/berth/internal/durable"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// record is the file exit.json: how a container ended, for a daemon that was not there.
type record struct {
	Version    int          `json:"version"`
	Code       int          `json:"code"`
	Signal     int          `json:"signal,omitempty"`
	OOMKills   uint64       `json:"oomKills,omitempty"`
	FinishedAt time.Time    `json:"finishedAt"`
	Error      string       `json:"error,omitempty"`
	Execs      []execRecord `json:"execs,omitempty"` // exits that no daemon has acknowledged
}

type execRecord struct {
	ID         string    `json:"id"`
	Code       int       `json:"code"`
	FinishedAt time.Time `json:"finishedAt"`
}

// encode is json.Marshal of the record. Marshal itself would have to be warmed up at the end of each container's life,
// while somebody is waiting.
func (r *record) encode() []byte {
	b := append([]byte(nil), `{"version":`...)
	b = strconv.AppendInt(b, int64(r.Version), 10)
	b = append(b, `,"code":`...)
	b = strconv.AppendInt(b, int64(r.Code), 10)
	if r.Signal != 0 {
		b = append(b, `,"signal":`...)
		b = strconv.AppendInt(b, int64(r.Signal), 10)
	}
	if r.OOMKills != 0 {
		b = append(b, `,"oomKills":`...)
		b = strconv.AppendUint(b, r.OOMKills, 10)
	}
	b = append(b, `,"finishedAt":"`...)
	b = r.FinishedAt.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	if r.Error != "" {
		b = append(b, `,"error":`...)
		b = appendQuoted(b, r.Error)
	}
	for i, e := range r.Execs {
		if i == 0 {
			b = append(b, `,"execs":[`...)
		} else {
			b = append(b, ',')
		}
		b = append(b, `{"id":`...)
		b = appendQuoted(b, e.ID)
		b = append(b, `,"code":`...)
		b = strconv.AppendInt(b, int64(e.Code), 10)
		b = append(b, `,"finishedAt":"`...)
		b = e.FinishedAt.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, `"}`...)
	}
	if len(r.Execs) > 0 {
		b = append(b, ']')
	}
	return append(b, "}\n"...)
}

func appendQuoted(b []byte, s string) []byte {
	q, err := json.Marshal(s)
	if err != nil { // never, for a string
		q = []byte(`""`)
	}
	return append(b, q...)
}

// ReadExit reads how a container ended from its run directory. The error wraps errdefs.ErrNotFound where there is no
// record: the container was not started, still runs, or its monitor was killed.
func ReadExit(dir string) (*Exit, error) {
	path := filepath.Join(dir, recordName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("exit record %q: %w", path, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil || r.Version < 1 {
		return nil, fmt.Errorf("exit record %q is damaged (%v): %w", path, err, errdefs.ErrDataLoss)
	}
	return &Exit{Code: r.Code, Signal: r.Signal, OOMKilled: r.OOMKills > 0, OOMKills: r.OOMKills,
		FinishedAt: r.FinishedAt, Error: r.Error}, nil
}

// end is the end of the container: everything it printed has been delivered, or nobody wanted it. Afterwards nothing
// of it is left but its record, and the monitor's last words.
func (m *monitor) end(now time.Time) {
	for len(m.execs) > 0 {
		p := m.execs[len(m.execs)-1]
		if !p.exited { // it was killed, and the kernel has not finished with it
			p.status.Code, p.status.Signal, p.at = 128+int(unix.SIGKILL), unix.SIGKILL, now
			m.poll.drop(&p.pidfd.watched)
		}
		p.finish(now)
	}
	m.init.release(now)
	if m.writer != nil {
		m.must(m.writer.Close())
		m.writer = nil
		m.compressor.stop() // the next run has its own, which finds what is left to do
	}
	m.poll.drop(&m.oom.watched)
	x := m.init.exit()
	if g := m.group(); g != nil {
		if m.countOOM(); m.oomKills > m.oomTold {
			m.tellOOM()
		}
		if err := g.Delete(); err != nil {
			x.Error = err.Error()
			m.complain(err)
		}
	}
	x.OOMKills, x.OOMKilled = m.oomKills, m.oomKills > 0
	r := &record{Version: Version, Code: x.Code, Signal: x.Signal, OOMKills: x.OOMKills, FinishedAt: x.FinishedAt,
		Error: x.Error}
	for _, e := range m.events {
		if e.Kind == EventExecExit {
			r.Execs = append(r.Execs, execRecord{e.ExecID, e.Exit.Code, e.Exit.FinishedAt})
		}
	}
	m.must(durable.WriteVolatile(filepath.Join(m.dir, recordName), r.encode(), 0o600))
	var st unix.Stat_t
	if unix.Fstat(2, &st) == nil && st.Size == 0 {
		_ = unix.Unlink(filepath.Join(m.dir, errorsName))
	}
	// From here on the directory may belong to the container's next run.
	_ = unix.Unlink(filepath.Join(m.dir, socketName))
	m.poll.drop(&m.listener.watched)
	m.tell(Event{Kind: EventExit, Exit: x})
	m.gone = true
	for _, c := range m.conns {
		c.deadline = now.Add(drainTime)
	}
}
