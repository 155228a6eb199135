package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// gzipCommand is gzip, gunzip and zcat.
func gzipCommand(c *call) int {
	o, err := getopt(c.args, "cdfkqt123456789", map[string]byte{"stdout": 'c', "decompress": 'd', "force": 'f', "keep": 'k'})
	if err != nil {
		return c.usage("%v", err)
	}
	unpack := o.has('d') || c.name != "gzip"
	toOut := o.has('c') || c.name == "zcat"
	level := gzip.DefaultCompression
	for n := 1; n <= 9; n++ {
		if o.has(byte('0' + n)) {
			level = n
		}
	}
	work := func(w io.Writer, r io.Reader) error {
		if unpack {
			zr, err := gzip.NewReader(r)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, zr)
			return err
		}
		zw, err := gzip.NewWriterLevel(w, level)
		if err != nil {
			return err
		}
		_, err = io.Copy(zw, r)
		return errors.Join(err, zw.Close())
	}
	if toOut || o.has('t') || len(o.rest) == 0 || len(o.rest) == 1 && o.rest[0] == "-" {
		return c.each(o.rest, func(name string, r io.Reader) error {
			if o.has('t') {
				return work(io.Discard, r)
			}
			return work(c.out, r)
		})
	}
	return c.each(o.rest, func(name string, r io.Reader) error {
		target := name + ".gz"
		if unpack {
			var ok bool
			if target, ok = strings.CutSuffix(name, ".gz"); !ok {
				return fmt.Errorf("%s: unknown suffix", name)
			}
		}
		flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
		if o.has('f') {
			flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		}
		f, err := os.OpenFile(target, flags, 0o666)
		if err != nil {
			return err
		}
		if err := errors.Join(work(f, r), f.Close()); err != nil {
			os.Remove(target)
			return fmt.Errorf("%s: %w", name, err)
		}
		if o.has('k') {
			return nil
		}
		return os.Remove(name)
	})
}

// tarCommand creates (c), lists (t) and extracts (x), with z for gzip, C, f, v, O, p, k and --strip-components.
func tarCommand(c *call) int {
	args := c.args
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args = append([]string{"-" + args[0]}, args[1:]...)
	}
	o, err := getopt(args, "ctxzf:C:vOpkhmS:", map[string]byte{"create": 'c', "list": 't', "extract": 'x', "gzip": 'z',
		"file": 'f', "directory": 'C', "verbose": 'v', "to-stdout": 'O', "strip-components": 'S'})
	if err != nil {
		return c.usage("%v", err)
	}
	if o.count['c']+o.count['t']+o.count['x'] != 1 {
		return c.usage("exactly one of c, t and x is needed")
	}
	file := o.last('f', "-")
	t := &tape{call: c, o: o}
	if o.has('c') {
		var w io.Writer = c.out
		if file != "-" {
			f, err := os.Create(file)
			if err != nil {
				return c.report(err)
			}
			defer f.Close()
			w = f
		}
		if err := t.chdir(); err != nil {
			return c.report(err)
		}
		return c.report(t.create(w))
	}
	r := c.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return c.report(err)
		}
		defer f.Close()
		r = f
	}
	if err := t.chdir(); err != nil {
		return c.report(err)
	}
	return c.report(t.read(r))
}

type tape struct {
	*call
	o *options
}

func (t *tape) chdir() error {
	if dir := t.o.last('C', ""); dir != "" {
		return os.Chdir(dir)
	}
	return nil
}

func (t *tape) create(w io.Writer) (err error) {
	if t.o.has('z') {
		zw := gzip.NewWriter(w)
		defer func() { err = errors.Join(err, zw.Close()) }()
		w = zw
	}
	tw := tar.NewWriter(w)
	defer func() { err = errors.Join(err, tw.Close()) }()
	inodes := map[[2]uint64]string{}
	for _, root := range t.o.rest {
		err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return t.add(tw, name, d, inodes)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tape) add(tw *tar.Writer, name string, d fs.DirEntry, inodes map[[2]uint64]string) error {
	fi, err := d.Info()
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(name); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return err
	}
	h.Name = strings.TrimLeft(name, "/")
	if fi.IsDir() {
		h.Name += "/"
	}
	st := fi.Sys().(*syscall.Stat_t)
	if fi.Mode().IsRegular() && st.Nlink > 1 {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := inodes[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		}
		inodes[key] = h.Name
	}
	if t.o.has('v') {
		fmt.Fprintln(t.err, h.Name)
	}
	if err := tw.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(tw, f, h.Size)
	return err
}

func (t *tape) read(r io.Reader) error {
	br := bufio.NewReader(r)
	r = br
	if magic, err := br.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		zr, err := gzip.NewReader(br)
		if err != nil {
			return err
		}
		r = zr
	}
	strip := number(t.o.last('S', "0"))
	if strip < 0 {
		return errors.New("--strip-components: not a number")
	}
	// A tar is written by a stranger: everything is extracted through a root no name or link can leave.
	root, err := os.OpenRoot(".")
	if err != nil {
		return err
	}
	defer root.Close()
	tr := tar.NewReader(r)
	type dirTime struct {
		name string
		at   time.Time
	}
	var dirs []dirTime
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean(strings.TrimLeft(h.Name, "/"))
		if parts := strings.Split(name, "/"); strip > 0 {
			if len(parts) <= strip {
				continue
			}
			name = path.Join(parts[strip:]...)
		}
		if !wanted(name, t.o.rest) {
			continue
		}
		switch {
		case t.o.has('t') && t.o.has('v'):
			fmt.Fprintf(t.out, "%s %d/%d %10d %s %s\n", h.FileInfo().Mode(), h.Uid, h.Gid, h.Size,
				h.ModTime.Format("2006-01-02 15:04"), h.Name)
		case t.o.has('t'):
			fmt.Fprintln(t.out, h.Name)
		case t.o.has('O'):
			if _, err := io.Copy(t.out, tr); err != nil {
				return err
			}
		default:
			if t.o.has('v') {
				fmt.Fprintln(t.out, h.Name)
			}
			if err := extract(root, name, h, tr); err != nil {
				return err
			}
			if h.Typeflag == tar.TypeDir {
				dirs = append(dirs, dirTime{name, h.ModTime})
			}
		}
	}
	for _, d := range slices.Backward(dirs) { // after what was written into them
		if err := root.Chtimes(d.name, d.at, d.at); err != nil {
			return err
		}
	}
	return nil
}

func wanted(name string, list []string) bool {
	if len(list) == 0 {
		return true
	}
	for _, want := range list {
		want = path.Clean(strings.TrimLeft(want, "/"))
		if name == want || strings.HasPrefix(name, want+"/") {
			return true
		}
	}
	return false
}

func extract(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	if name == "." {
		return nil
	}
	mode := h.FileInfo().Mode()
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if h.Typeflag != tar.TypeDir {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		if err = root.Mkdir(name, 0o700); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	case tar.TypeReg:
		err = extractFile(root, name, r)
	case tar.TypeSymlink:
		err = root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(path.Clean(strings.TrimLeft(h.Linkname, "/")), name)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		err = extractNode(root, name, h)
	default:
		return fmt.Errorf("%s: unknown type %q", h.Name, h.Typeflag)
	}
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := root.Lchown(name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	if err := root.Chmod(name, mode&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	return root.Chtimes(name, h.ModTime, h.ModTime)
}

func extractFile(root *os.Root, name string, r io.Reader) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func extractNode(root *os.Root, name string, h *tar.Header) error {
	dir, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	return unix.Mknodat(int(dir.Fd()), path.Base(name), kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
}
