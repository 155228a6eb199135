package dockerapi

import (
	"encoding/binary"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/logfile"
)

func (s *Server) containerLogs(c *call) error {
	stdout, stderr := c.flag("stdout"), c.flag("stderr")
	if !stdout && !stderr {
		return invalid("Bad parameters: you must choose at least one stream")
	}
	o := logfile.ReadOptions{Stdout: stdout, Stderr: stderr, Follow: c.flag("follow"), Tail: -1}
	now := time.Now()
	var err error
	if o.Since, err = moment(zeroIsNone(c.text("since")), now); err != nil {
		return err
	}
	if o.Until, err = moment(zeroIsNone(c.text("until")), now); err != nil {
		return err
	}
	// Docker takes anything that is no number for "all".
	if n, err := strconv.Atoi(c.text("tail")); err == nil && n >= 0 {
		o.Tail = n
	}
	rec, err := s.engine.Containers.Get(c.name())
	if err != nil {
		return err
	}
	tty := rec.Config.Process.Tty
	c.w.Header().Set("Content-Type", streamType(tty, c.version))
	out := newStream(c.w)
	if o.Follow && s.engine.LogPath(rec) != "" {
		// A client that follows a silent container must not wait for its first word to learn that it is connected.
		if err := out.begin(); err != nil {
			return nil
		}
	}
	lines := &batch{out: out}
	timestamps, details := c.flag("timestamps"), c.flag("details")
	err = s.engine.Logs(c.ctx(), rec.ID, o, func(e logfile.Entry) error {
		return lines.add(func(buf []byte) []byte { return appendEntry(buf, e, !tty, timestamps, details) })
	})
	if end := lines.flush(); err == nil {
		err = end
	}
	if err != nil && c.ctx().Err() == nil {
		if !out.begun {
			return err
		}
		// The stream has begun: Docker's framing has a place for what went wrong after that.
		if !tty {
			_, _ = out.Write(frame(nil, 3, []byte("Error grabbing logs: "+err.Error()+"\n")))
		}
		s.log.Error("read logs", "container", rec.Name, "error", err)
		return nil
	}
	if !out.begun {
		c.w.WriteHeader(http.StatusOK)
	}
	return nil
}

func zeroIsNone(t string) string {
	if t == "0" {
		return ""
	}
	return t
}

// rfc3339Nano keeps all nine digits, so that lines sort as text.
const rfc3339Nano = "2006-01-02T15:04:05.000000000Z07:00"

// appendEntry adds one log entry to buf as the client sees it.
func appendEntry(buf []byte, e logfile.Entry, framed, timestamps, details bool) []byte {
	var prefix []byte
	if timestamps {
		prefix = append(e.Time.UTC().AppendFormat(prefix, rfc3339Nano), ' ')
	}
	if details {
		prefix = append(append(prefix, detailText(e.Attrs)...), ' ')
	}
	if !framed {
		return append(append(buf, prefix...), e.Line...)
	}
	return frame(buf, byte(e.Stream), prefix, e.Line)
}

// frame adds one frame of Docker's multiplexed stream: stream, three zeros, length, payload.
func frame(buf []byte, stream byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	buf = append(buf, stream, 0, 0, 0)
	buf = binary.BigEndian.AppendUint32(buf, uint32(n))
	for _, p := range parts {
		buf = append(buf, p...)
	}
	return buf
}

// detailText is "key=value,key=value", each escaped as in a URL.
func detailText(attrs map[string]string) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		pairs = append(pairs, url.QueryEscape(k)+"="+url.QueryEscape(attrs[k]))
	}
	return strings.Join(pairs, ",")
}
