package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a log for which nothing else was asked.
const (
	DefaultMaxSize = 20 << 20
	DefaultMaxFile = 3
)

// MaxPiece is the longest line that is written in one piece, in bytes.
const MaxPiece = 16 << 10

// BufferSize is how large a buffer given to OpenWriter should be.
const BufferSize = MaxPiece*maxGrowth + 32<<10

// perm is Docker's: the group may read.
const perm = 0o640

// WriterOptions say where and how much to write.
type WriterOptions struct {
	Path    string
	MaxSize int64 // of each file in bytes; 0: DefaultMaxSize, negative: unlimited
	MaxFile int   // how many files; 0: DefaultMaxFile
	// Attrs is written to every entry when it is not empty: a JSON object.
	Attrs []byte
	// Buffer is used for entries that are not written yet, if it has at least BufferSize bytes. Between Flush and the
	// next Write its content does not matter.
	Buffer []byte
	// Rotating is called before each rotation and must end a Compress that runs; nil allowed.
	Rotating func()
	// Rotated is called after each rotation that left something to compress; nil allowed.
	Rotated func()
}

// Writer appends to a log. It is not safe for concurrent use. Nothing it does fails the caller: what cannot be
// written is counted.
type Writer struct {
	o       WriterOptions
	fd      int   // -1: to be opened at the next Flush
	size    int64 // of the file, up to its last whole line
	torn    bool  // there is something behind size that could not be cut off
	buf     []byte
	streams [2]partial
	tail    []byte // end of an entry at the moment at
	at      time.Time

	lost      uint64 // entries not written and not reported yet
	lostBytes uint64
	cause     unix.Errno
}

// partial is the line that a stream has begun.
type partial struct {
	data  []byte
	tail  []byte // end of an entry at the time of the first piece; empty: no piece was written
	begun bool   // a piece was written
}

// OpenWriter opens or makes the file at o.Path and cuts off what a killed writer may have left half-written. When
// that fails the writer can be used all the same: it tries again with each Flush, and counts what is lost meanwhile.
func OpenWriter(o WriterOptions) (*Writer, error) {
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	if o.MaxFile == 0 {
		o.MaxFile = DefaultMaxFile
	}
	if len(o.Buffer) < BufferSize+len(o.Attrs) {
		o.Buffer = make([]byte, BufferSize+len(o.Attrs))
	}
	w := &Writer{o: o, fd: -1, buf: o.Buffer[:0]}
	if err := w.open(); err != nil {
		return w, fmt.Errorf("open log %q: %w", o.Path, err)
	}
	return w, nil
}

func (w *Writer) open() error {
	fd, err := ignoreEINTR(func() (int, error) {
		return unix.Open(w.o.Path, unix.O_RDWR|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, perm)
	})
	if err != nil {
		return err
	}
	size, err := unix.Seek(fd, 0, unix.SEEK_END)
	if err == nil {
		w.size, err = wholeLines(fd, size)
	}
	if err == nil && w.size < size {
		err = unix.Ftruncate(fd, w.size)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	w.fd, w.torn = fd, false
	return nil
}

// wholeLines is how many of the first size bytes of a file are lines that end.
func wholeLines(fd int, size int64) (int64, error) {
	var block [512]byte // small, as it makes the stack of a small program grow
	for size > 0 {
		n := min(size, int64(len(block)))
		got, err := ignoreEINTR(func() (int, error) { return unix.Pread(fd, block[:n], size-n) })
		if err != nil {
			return 0, err
		}
		if int64(got) < n {
			return 0, errors.New("the file shrinks while it is read")
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			return size - n + int64(i) + 1, nil
		}
		size -= n
	}
	return 0, nil
}

// Write takes what was read from a stream at the moment now. Whole lines are in the file after the next Flush; the
// beginning of a line waits for its end.
func (w *Writer) Write(stream Stream, p []byte, now time.Time) {
	if !now.Equal(w.at) || len(w.tail) == 0 {
		w.at = now
		w.tail = appendTail(w.tail[:0], now)
	}
	part := w.part(stream)
	for len(p) > 0 {
		room := MaxPiece - len(part.data)
		i := bytes.IndexByte(p[:min(len(p), room)], '\n')
		switch {
		case i >= 0:
			line := p[:i]
			if len(part.data) > 0 {
				part.data = append(part.data, line...)
				line = part.data
			}
			w.entry(stream, part, line, true)
			part.begun, part.data = false, part.data[:0]
			p = p[i+1:]
		case len(p) < room:
			part.data = append(part.data, p...)
			return
		default:
			piece := p[:room]
			if len(part.data) > 0 {
				part.data = append(part.data, piece...)
				piece = part.data
			}
			cut := runeCut(piece)
			w.entry(stream, part, piece[:cut], false)
			p = p[room:]
			// What was cut off begins the next piece. It may lie in the same memory.
			part.data = append(part.data[:0], piece[cut:]...)
		}
	}
}

// End writes what the stream printed last without a newline. The stream may go on afterwards, with a new line.
func (w *Writer) End(stream Stream, now time.Time) {
	part := w.part(stream)
	if len(part.data) > 0 {
		w.at = now
		w.tail = appendTail(w.tail[:0], now)
		w.entry(stream, part, part.data, false)
	}
	part.begun, part.data = false, part.data[:0]
}

// Pending is the beginning of a line of the stream that waits for its end. It is for handing a writer over to another
// process: there, what Pending gave is the first thing to write.
func (w *Writer) Pending(stream Stream) []byte { return w.part(stream).data }

func (w *Writer) part(stream Stream) *partial {
	if stream == Stderr {
		return &w.streams[1]
	}
	return &w.streams[0]
}

// entry puts one entry into the buffer.
func (w *Writer) entry(stream Stream, part *partial, line []byte, newline bool) {
	tail := w.tail
	if part.begun {
		tail = part.tail
	} else if !newline {
		part.begun, part.tail = true, append(part.tail[:0], tail...)
	}
	const around = len(`{"log":"\n","stream":"stderr","attrs":,`)
	if cap(w.buf)-len(w.buf) < len(line)*maxGrowth+around+len(w.o.Attrs)+len(tail) {
		w.Flush()
	}
	w.buf = appendEntry(w.buf, stream, line, newline, w.o.Attrs, tail)
}

// Flush writes the entries of all whole lines to the file, rotating as needed.
func (w *Writer) Flush() {
	for len(w.buf) > 0 {
		if w.fd < 0 {
			if err := w.open(); err != nil {
				w.lose(len(w.buf), err)
				return
			}
		}
		if w.lost > 0 {
			w.report()
		}
		n := len(w.buf)
		if w.o.MaxSize > 0 && w.size+int64(n) > w.o.MaxSize {
			// Only what still fits; at least one entry goes into an empty file.
			n = bytes.LastIndexByte(w.buf[:max(0, min(int64(n), w.o.MaxSize-w.size))], '\n') + 1
			if n == 0 && w.size > 0 {
				if err := w.rotate(); err != nil {
					w.lose(len(w.buf), err)
					return
				}
				continue
			}
			if n == 0 {
				n = bytes.IndexByte(w.buf, '\n') + 1
			}
		}
		done, err := w.append(w.buf[:n])
		w.size += int64(done)
		w.consume(done)
		if err != nil {
			w.lose(len(w.buf), err)
			return
		}
	}
}

// append writes lines to the end of the file and returns how many bytes of whole lines are there. With an error it has
// cut off the rest of a line that was written in part.
func (w *Writer) append(lines []byte) (done int, err error) {
	if w.torn {
		if err := unix.Ftruncate(w.fd, w.size); err != nil {
			return 0, err
		}
		w.torn = false
	}
	for done < len(lines) {
		n, werr := ignoreEINTR(func() (int, error) { return unix.Write(w.fd, lines[done:]) })
		if werr != nil {
			whole := bytes.LastIndexByte(lines[:done], '\n') + 1
			if whole < done {
				w.torn = unix.Ftruncate(w.fd, w.size+int64(whole)) != nil
			}
			return whole, werr
		}
		done += n
	}
	return done, nil
}

// consume takes n bytes from the front of the buffer.
func (w *Writer) consume(n int) {
	w.buf = w.buf[:copy(w.buf, w.buf[n:])]
}

// lose counts the first n bytes of the buffer as lost.
func (w *Writer) lose(n int, err error) {
	w.lost += uint64(bytes.Count(w.buf[:n], []byte{'\n'}))
	w.lostBytes += uint64(n)
	w.cause = unix.EIO
	var errno unix.Errno
	if errors.As(err, &errno) {
		w.cause = errno
	}
	w.consume(n)
}

// report tries to say in the log what is missing from it.
func (w *Writer) report() {
	line := append([]byte(nil), "[berth: "...)
	line = strconv.AppendUint(line, w.lost, 10)
	line = append(line, " log entries ("...)
	line = strconv.AppendUint(line, w.lostBytes, 10)
	line = append(line, " bytes) could not be written: "...)
	line = append(append(line, w.cause.Error()...), ']')
	entry := appendEntry(nil, Stderr, line, true, w.o.Attrs, w.tail)
	done, err := w.append(entry)
	w.size += int64(done)
	if err == nil {
		w.lost, w.lostBytes = 0, 0
	}
}

// Lost is what has not been written and not been reported in the log yet.
func (w *Writer) Lost() (entries, size uint64) { return w.lost, w.lostBytes }

// Close writes what is left, including lines without an end, and closes the file.
func (w *Writer) Close() error {
	now := w.at
	if now.IsZero() {
		now = time.Now()
	}
	w.End(Stdout, now)
	w.End(Stderr, now)
	w.Flush()
	if w.fd < 0 {
		return nil
	}
	fd := w.fd
	w.fd = -1
	return unix.Close(fd)
}

func ignoreEINTR[T any](fn func() (T, error)) (T, error) {
	for {
		v, err := fn()
		if err != unix.EINTR {
			return v, err
		}
	}
}
