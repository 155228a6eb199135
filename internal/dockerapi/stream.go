package dockerapi

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// stream is an answer that is written bit by bit, each of which reaches the client at once.
type stream struct {
	w     http.ResponseWriter
	flush func() error
	// begun says that something was written, so that an error can no longer be an HTTP status.
	begun bool
	// lazy leaves flushing to net/http's buffer: right for archives, wrong for events.
	lazy bool
}

func newStream(w http.ResponseWriter) *stream {
	return &stream{w: w, flush: http.NewResponseController(w).Flush}
}

// Write sends p.
func (s *stream) Write(p []byte) (int, error) {
	s.begun = true
	n, err := s.w.Write(p)
	if err == nil && !s.lazy {
		err = s.flush()
	}
	return n, err
}

// encode sends v as one line of JSON.
func (s *stream) encode(v any) error {
	enc := json.NewEncoder(s)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// begin sends the headers without waiting for content.
func (s *stream) begin() error {
	s.begun = true
	s.w.WriteHeader(http.StatusOK)
	return s.flush()
}

// download answers with what produce writes. An error after the first byte cuts the connection, so that a client never
// takes half an archive for a whole one.
func (c *call) download(contentType string, produce func(context.Context, *stream) error) error {
	c.w.Header().Set("Content-Type", contentType)
	out := newStream(c.w)
	out.lazy = true
	err := produce(c.ctx(), out)
	if err != nil && out.begun {
		c.taken = true
		panic(http.ErrAbortHandler)
	}
	return err
}

// upload is the body of a request that carries an archive.
func (c *call) upload() io.Reader { return c.r.Body }

// batch joins many small pieces into few writes, without keeping any of them back for longer than batchTime.
type batch struct {
	out *stream

	mu    sync.Mutex
	buf   []byte
	last  time.Time // of the last write
	timer *time.Timer
	err   error
}

const (
	batchSize = 64 << 10
	batchTime = 5 * time.Millisecond
)

// add appends a piece by calling f with the buffer. The error may be that of an earlier piece.
func (b *batch) add(f func([]byte) []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = f(b.buf)
	switch {
	case len(b.buf) >= batchSize, time.Since(b.last) > batchTime:
		b.send()
	case b.timer == nil:
		b.timer = time.AfterFunc(batchTime, func() { _ = b.flush() })
	}
	return b.err
}

// flush writes what is there.
func (b *batch) flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.send()
	return b.err
}

func (b *batch) send() {
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	if b.err == nil && len(b.buf) > 0 {
		_, b.err = b.out.Write(b.buf)
	}
	b.buf, b.last = b.buf[:0], time.Now()
}
