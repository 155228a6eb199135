package logfile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
)

// file is one file of a log, held open.
type file struct {
	f    *os.File
	info fs.FileInfo
	gz   bool
	skip int64 // where reading begins: a whole line
}

// log is all the files of a log as they were at one moment, the oldest first. The newest may be missing.
type log struct {
	files  []*file
	newest *file // nil when it is missing
}

func (l *log) close() {
	for _, f := range l.files {
		f.f.Close()
	}
}

// rotations bounds how often openLog begins anew because the log was rotated meanwhile.
const rotations = 100

// openLog opens the files of the log at path.
func openLog(path string) (*log, error) {
	for try := 0; ; try++ {
		l, whole, err := tryOpen(path)
		if err != nil || whole || try == rotations {
			return l, err
		}
		l.close()
	}
}

// tryOpen is openLog; whole is false when the log was rotated meanwhile, so that a file may be missing or be there
// twice.
func tryOpen(path string) (l *log, whole bool, err error) {
	l = &log{}
	defer func() {
		if err != nil {
			l.close()
			l = nil
		}
	}()
	if l.newest, err = openFile(path, false); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l, false, err
	}
	old := rotated(path)
	slices.SortFunc(old, func(a, b rotatedFile) int {
		if a.n != b.n {
			return b.n - a.n
		}
		if a.gz { // of two forms the compressed one is whole
			return -1
		}
		return 1
	})
	last := 0
	for _, r := range old {
		if r.n == last {
			continue
		}
		f, ferr := openFile(r.name, r.gz)
		if errors.Is(ferr, fs.ErrNotExist) {
			return l, false, nil
		}
		if ferr != nil {
			return l, false, ferr
		}
		last = r.n
		l.files = append(l.files, f)
	}
	if l.newest == nil {
		_, err := os.Stat(path)
		return l, errors.Is(err, fs.ErrNotExist), nil
	}
	l.files = append(l.files, l.newest)
	now, err := os.Stat(path)
	return l, err == nil && os.SameFile(now, l.newest.info), nil
}

func openFile(name string, gz bool) (*file, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &file{f: f, info: info, gz: gz}, nil
}

// reader gives the file's content from skip on.
func (f *file) reader() (io.Reader, error) {
	if !f.gz {
		_, err := f.f.Seek(f.skip, io.SeekStart)
		return f.f, err
	}
	r, err := f.plain()
	if err != nil {
		return nil, err
	}
	_, err = io.CopyN(io.Discard, r, f.skip)
	return r, err
}

func (f *file) plain() (io.Reader, error) {
	if _, err := f.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return gzip.NewReader(f.f)
}

// tail moves the beginnings of the files so that n entries are left, and drops files before them.
func (l *log) tail(n int) error {
	for i := len(l.files) - 1; i >= 0 && n > 0; i-- {
		found, err := l.files[i].tail(n)
		if err != nil {
			return err
		}
		if n -= found; n == 0 {
			l.drop(i)
			return nil
		}
	}
	if n > 0 || len(l.files) == 0 {
		return nil // all of it
	}
	// Nothing but what is still to come.
	if l.newest == nil {
		l.drop(len(l.files))
		return nil
	}
	l.drop(len(l.files) - 1)
	size, err := l.newest.f.Seek(0, io.SeekEnd)
	if err == nil {
		l.newest.skip, err = wholeLines(int(l.newest.f.Fd()), size)
	}
	return err
}

// drop closes the first n files.
func (l *log) drop(n int) {
	for i := 0; i < n; i++ {
		l.files[i].f.Close()
	}
	l.files = l.files[max(0, n):]
}

// tail makes reading begin n lines before the file's end, or at its beginning if it has fewer, and returns how many
// there are.
func (f *file) tail(n int) (int, error) {
	if f.gz {
		return f.tailCompressed(n)
	}
	size, err := f.f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	// The newline that ends line n from the end is found after n others. What follows the last newline is no line.
	found := -1
	for at := size; at > 0; {
		block := buf[:min(at, int64(len(buf)))]
		at -= int64(len(block))
		if _, err := f.f.ReadAt(block, at); err != nil {
			return 0, err
		}
		for end := len(block); ; {
			i := bytes.LastIndexByte(block[:end], '\n')
			if i < 0 {
				break
			}
			if found++; found == n {
				f.skip = at + int64(i) + 1
				return n, nil
			}
			end = i
		}
	}
	if found < 0 {
		return 0, nil // no line at all
	}
	return found + 1, nil
}

// tailCompressed is tail for a file that can only be read forwards: it counts first.
func (f *file) tailCompressed(n int) (int, error) {
	r, err := f.plain()
	if err != nil {
		return 0, err
	}
	// The ends of the last n+1 lines, in a ring.
	ends := make([]int64, 0, min(n+1, 1<<16))
	count, at := 0, int64(0)
	buf := make([]byte, 64<<10)
	for {
		got, err := r.Read(buf)
		for i := 0; i < got; {
			j := bytes.IndexByte(buf[i:got], '\n')
			if j < 0 {
				break
			}
			i += j + 1
			if len(ends) <= n {
				ends = append(ends, at+int64(i))
			} else {
				ends[count%(n+1)] = at + int64(i)
			}
			count++
		}
		at += int64(got)
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	if count <= n {
		return count, nil
	}
	f.skip = ends[(count-n-1)%(n+1)]
	return n, nil
}
