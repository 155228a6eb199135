package logfile

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Compress compresses every rotated file of the log at path that is not compressed yet. The log may be written, rotated
// and read meanwhile: a file that is rotated away under its hands stays uncompressed. Killing it leaves nothing but
// a temporary file that the next call removes. Only one call may run for a log at a time.
func Compress(path string) error {
	tmp := path + ".compressing"
	var errs []error
	for n := 1; ; n++ {
		name := numbered(path, n)
		_, errPlain := os.Lstat(name)
		_, errGz := os.Lstat(name + gz)
		if errors.Is(errPlain, fs.ErrNotExist) {
			if errors.Is(errGz, fs.ErrNotExist) && !older(path, n) {
				break
			}
			continue
		}
		if err := compressFile(name, tmp); err != nil {
			_ = os.Remove(tmp)
			errs = append(errs, fmt.Errorf("compress log %q: %w", name, err))
			break
		}
	}
	return errors.Join(errs...)
}

// older reports whether there is a rotated file with a number above n.
func older(path string, n int) bool {
	for _, r := range rotated(path) {
		if r.n > n {
			return true
		}
	}
	return false
}

func compressFile(name, tmp string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	before, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err == nil {
		if _, err = io.Copy(z, in); err == nil {
			err = z.Close()
		}
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	// Readers skip files by their time of change.
	if err := os.Chtimes(tmp, before.ModTime(), before.ModTime()); err != nil {
		return err
	}
	// The writer may have rotated meanwhile: then the name stands for another file, and this work is void. It may still
	// rotate between the look and the rename: that is why it ends its compressor first.
	now, err := os.Lstat(name)
	if err != nil || !os.SameFile(before, now) {
		return os.Remove(tmp)
	}
	if err := os.Rename(tmp, name+gz); err != nil {
		return err
	}
	return os.Remove(name)
}

// rotatedFile is one file of a log that is not written any more.
type rotatedFile struct {
	n    int
	name string
	gz   bool
}

// rotated finds the rotated files of a log, in no order.
func rotated(path string) []rotatedFile {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var found []rotatedFile
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), base+".")
		if !ok {
			continue
		}
		digits, isGz := strings.CutSuffix(rest, gz)
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 || strconv.Itoa(n) != digits {
			continue
		}
		found = append(found, rotatedFile{n, filepath.Join(dir, e.Name()), isGz})
	}
	return found
}
