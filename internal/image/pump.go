package image

import (
	"io"
	"sync"
)

const (
	pumpBuffers = 4
	pumpBuffer  = 256 << 10
)

// pump hands buffers from one goroutine to another, so that reading, decompressing and unpacking run side by side.
// Whoever writes takes an empty buffer with next, fills it and gives it away with put; the other side is an
// io.Reader.
type pump struct {
	free, full chan []byte
	cur, rest  []byte

	once sync.Once
	gone chan struct{} // closed when the reader gave up
	why  error         // of the reader; valid when gone is closed
	end  error         // of the writer; valid when full is closed
}

func newPump() *pump {
	p := &pump{free: make(chan []byte, pumpBuffers), full: make(chan []byte, pumpBuffers), gone: make(chan struct{})}
	for range pumpBuffers {
		p.free <- nil // made when first used: small layers never need them all
	}
	return p
}

// next returns a buffer to fill, or the reader's error.
func (p *pump) next() ([]byte, error) {
	select {
	case <-p.gone:
		return nil, p.why
	default:
	}
	select {
	case b := <-p.free:
		if b == nil {
			b = make([]byte, pumpBuffer)
		}
		return b[:cap(b)], nil
	case <-p.gone:
		return nil, p.why
	}
}

// put gives a buffer away. There is always room for it.
func (p *pump) put(b []byte) { p.full <- b }

// finish ends the writing; the reader gets err, or io.EOF for nil, when it has read everything.
func (p *pump) finish(err error) {
	if err == nil {
		err = io.EOF
	}
	p.end = err
	close(p.full)
}

// abandon ends the reading; the writer gets err.
func (p *pump) abandon(err error) {
	p.once.Do(func() {
		p.why = err
		close(p.gone)
	})
}

// Read implements io.Reader.
func (p *pump) Read(out []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.cur != nil {
			p.free <- p.cur
			p.cur = nil
		}
		b, ok := <-p.full
		if !ok {
			return 0, p.end
		}
		p.cur, p.rest = b, b
	}
	n := copy(out, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
