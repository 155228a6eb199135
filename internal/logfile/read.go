package logfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// ReadOptions choose what of a log is read.
type ReadOptions struct {
	Since, Until time.Time // zero: no bound; both are part of what is read
	// Tail is how many of the last entries are looked at, of whatever stream and time; negative: all.
	Tail           int
	Follow         bool
	Stdout, Stderr bool
	// Done ends a Follow when it is closed and everything written until then was read; nil: only ctx and Until do.
	Done <-chan struct{}
}

// Read calls fn for each entry of the log at path, the oldest first, from all its files. An error of fn ends it and is
// returned. A log that does not exist is empty. Cancelling ctx ends Read soon, with ctx's error.
func Read(ctx context.Context, path string, o ReadOptions, fn func(Entry) error) error {
	r := &reader{o: o, path: path, fn: fn, buf: make([]byte, readSize)}
	err := r.run(ctx)
	if err == errUntil {
		err = nil
	}
	if err != nil && err != ctx.Err() && !r.fnFailed {
		return fmt.Errorf("read log %q: %w", path, err)
	}
	return err
}

const (
	readSize = 256 << 10
	// maxLine bounds what is taken for a line of the file; anything longer is no entry.
	maxLine = 16 << 20
)

// errUntil says that everything from here on is too new.
var errUntil = errors.New("past the end")

type reader struct {
	o        ReadOptions
	path     string
	fn       func(Entry) error
	fnFailed bool
	dec      decoder
	buf      []byte
	n        int  // bytes in buf that are the beginning of a line
	skipping bool // inside a line that is too long
}

func (r *reader) run(ctx context.Context) error {
	var w *watch
	if r.o.Follow {
		// Before looking at the files, so that no change is missed.
		var err error
		if w, err = newWatch(r.path); err != nil {
			return err
		}
		defer w.close()
	}
	l, err := openLog(r.path)
	if err != nil {
		return err
	}
	defer func() { l.close() }()
	if r.o.Tail >= 0 {
		if err := l.tail(r.o.Tail); err != nil {
			return err
		}
	}
	for len(l.files) > 0 {
		f := l.files[0]
		if len(l.files) == 1 && r.o.Follow {
			break
		}
		// The clock of file times lags a little behind.
		if r.o.Since.IsZero() || !f.info.ModTime().Add(time.Second).Before(r.o.Since) {
			if err := r.file(ctx, f); err != nil {
				return err
			}
		}
		l.drop(1)
	}
	if !r.o.Follow {
		return nil
	}
	return r.follow(ctx, w, l)
}

// file reads one file to its end. What is behind the last newline is not consumed.
func (r *reader) file(ctx context.Context, f *file) error {
	in, err := f.reader()
	if err != nil {
		return err
	}
	r.n, r.skipping = 0, false
	return r.drain(ctx, in)
}

// drain reads to the end of what is there now.
func (r *reader) drain(ctx context.Context, in io.Reader) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.n == len(r.buf) {
			if len(r.buf) >= maxLine {
				r.n, r.skipping = 0, true
			} else {
				r.buf = append(r.buf, make([]byte, len(r.buf))...)
			}
		}
		n, err := in.Read(r.buf[r.n:])
		if n > 0 {
			if err := r.lines(n); err != nil {
				return err
			}
		}
		if err == io.EOF || n == 0 && err == nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lines handles the lines that n more bytes have completed, and keeps the rest.
func (r *reader) lines(n int) error {
	text, fresh := r.buf[:r.n+n], r.n
	for {
		i := bytes.IndexByte(text[fresh:], '\n')
		if i < 0 {
			break
		}
		line := text[:fresh+i]
		text, fresh = text[fresh+i+1:], 0
		if r.skipping {
			r.skipping = false
			continue
		}
		if err := r.entry(line); err != nil {
			return err
		}
	}
	r.n = copy(r.buf, text)
	if r.skipping {
		r.n = 0
	}
	return nil
}

func (r *reader) entry(line []byte) error {
	e, err := r.dec.decode(line)
	if err != nil {
		return nil // somebody's accident; the entries around it are still good
	}
	if !r.o.Until.IsZero() && e.Time.After(r.o.Until) {
		return errUntil
	}
	if e.Stream == Stdout && !r.o.Stdout || e.Stream == Stderr && !r.o.Stderr ||
		!r.o.Since.IsZero() && e.Time.Before(r.o.Since) {
		return nil
	}
	if err := r.fn(e); err != nil {
		r.fnFailed = true
		return err
	}
	return nil
}

// follow reads the newest file, what is added to it, and the files after it. Only whole lines count as read, so the
// place in the file is always the beginning of a line.
func (r *reader) follow(ctx context.Context, w *watch, l *log) error {
	var past <-chan time.Time
	if !r.o.Until.IsZero() {
		t := time.NewTimer(time.Until(r.o.Until))
		defer t.Stop()
		past = t.C
	}
	// The last file is the newest, or the one before it while it is being replaced.
	var cur *file
	if len(l.files) > 0 {
		cur = l.files[0]
	}
	l.files = nil // it is ours from here on
	var in io.Reader
	defer func() {
		if cur != nil {
			cur.f.Close()
		}
	}()
	if cur != nil {
		var err error
		if in, err = cur.reader(); err != nil {
			return err
		}
	}
	r.n, r.skipping = 0, false
	over := false
	for {
		if cur != nil {
			if err := r.drain(ctx, in); err != nil {
				return err
			}
		}
		next, err := r.next(cur)
		if err != nil {
			return err
		}
		if next != nil {
			// No more is added to a file once it has lost its name, but something may have been before that.
			if cur != nil {
				err = r.drain(ctx, in)
				cur.f.Close()
			}
			cur = next
			if err == nil {
				in, err = cur.reader()
			}
			if err != nil {
				return err
			}
			r.n, r.skipping = 0, false
			continue
		}
		if over {
			return nil
		}
		select {
		case <-w.changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.o.Done:
			over = true // once more: what was written before the end
		case <-past:
			over = true
		}
	}
}

// next opens the file that comes after cur, if there is one: the newest, or after several rotations at once the one
// that is one number younger. A file that was cut short by somebody is read again from its beginning.
func (r *reader) next(cur *file) (*file, error) {
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // in the middle of a rotation; an event will come
	}
	if err != nil {
		return nil, err
	}
	if cur == nil {
		return oldest(r.path)
	}
	if os.SameFile(now, cur.info) {
		if at, err := cur.f.Seek(0, io.SeekCurrent); err == nil && now.Size() < at {
			r.n, r.skipping = 0, false
			_, err = cur.f.Seek(0, io.SeekStart)
			return nil, err
		}
		return nil, nil
	}
	l, err := openLog(r.path)
	if err != nil {
		return nil, err
	}
	at := -1
	for i, f := range l.files {
		if os.SameFile(f.info, cur.info) {
			at = i
		}
	}
	if at == len(l.files)-1 {
		l.close()
		return nil, nil
	}
	if at < 0 {
		// Ours has been removed or compressed. Files that were there before it are older than its last change.
		for at+1 < len(l.files)-1 && !l.files[at+1].info.ModTime().After(cur.modTime()) {
			at++
		}
	}
	return l.only(at + 1), nil
}

// oldest opens the first file of a log that was not there before.
func oldest(path string) (*file, error) {
	l, err := openLog(path)
	if err != nil || len(l.files) == 0 {
		return nil, err
	}
	return l.only(0), nil
}

// only closes all files but one.
func (l *log) only(i int) *file {
	f := l.files[i]
	l.files = append(l.files[:i:i], l.files[i+1:]...)
	l.close()
	return f
}

// modTime is when the file was last written, as far as it is known.
func (f *file) modTime() time.Time {
	if info, err := f.f.Stat(); err == nil {
		return info.ModTime()
	}
	return f.info.ModTime()
}
