package main

import (
	"bufio"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func basename(c *call) int {
	if len(c.args) < 1 || len(c.args) > 2 {
		return c.usage("usage: basename NAME [SUFFIX]")
	}
	name := filepath.Base(c.args[0])
	if len(c.args) == 2 && name != c.args[1] {
		name = strings.TrimSuffix(name, c.args[1])
	}
	fmt.Fprintln(c.out, name)
	return 0
}

func dirname(c *call) int {
	if len(c.args) == 0 {
		return c.usage("usage: dirname NAME...")
	}
	for _, a := range c.args {
		a = strings.TrimRight(a, "/")
		switch i := strings.LastIndexByte(a, '/'); {
		case a == "" || i == 0:
			a = "/"
		case i < 0:
			a = "."
		default:
			a = strings.TrimRight(a[:i], "/")
		}
		fmt.Fprintln(c.out, a)
	}
	return 0
}

func readlink(c *call) int {
	o, err := getopt(c.args, "fenm", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	code := 0
	for _, name := range o.rest {
		var target string
		if o.has('f') || o.has('e') || o.has('m') {
			target, err = canonical(name, !o.has('e'))
		} else {
			target, err = os.Readlink(name)
		}
		if err != nil {
			code = 1 // as others' readlink: silently
			continue
		}
		c.out.WriteString(target)
		if !o.has('n') {
			c.out.WriteByte('\n')
		}
	}
	return code
}

func realpath(c *call) int {
	o, err := getopt(c.args, "esmq", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	code := 0
	for _, name := range o.rest {
		target, err := canonical(name, !o.has('e'))
		if err != nil {
			code = c.report(err)
			continue
		}
		fmt.Fprintln(c.out, target)
	}
	return code
}

// canonical resolves every link; with lastMayMiss the last element need not exist.
func canonical(name string, lastMayMiss bool) (string, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	target, err := filepath.EvalSymlinks(abs)
	if err == nil || !lastMayMiss || !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

func ln(c *call) int {
	o, err := getopt(c.args, "sfnvT", map[string]byte{"symbolic": 's', "force": 'f', "no-dereference": 'n'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) == 0 {
		return c.usage("usage: ln [-sfn] TARGET... LINK|DIRECTORY")
	}
	if len(o.rest) == 1 {
		o.rest = append(o.rest, ".")
	}
	dest := o.rest[len(o.rest)-1]
	fi, err := os.Stat(dest)
	intoDir := err == nil && fi.IsDir() && !o.has('T')
	if intoDir && o.has('n') {
		if l, err := os.Lstat(dest); err == nil && l.Mode()&fs.ModeSymlink != 0 {
			intoDir = false
		}
	}
	code := 0
	for _, target := range o.rest[:len(o.rest)-1] {
		link := dest
		if intoDir {
			link = filepath.Join(dest, filepath.Base(target))
		}
		if o.has('f') {
			if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
				code = c.report(err)
				continue
			}
		}
		if o.has('s') {
			err = os.Symlink(target, link)
		} else {
			err = os.Link(target, link)
		}
		if err != nil {
			code = c.fail("%s: %v", link, errors.Unwrap(err))
		}
	}
	return code
}

func rmdir(c *call) int {
	o, err := getopt(c.args, "p", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	code := 0
	for _, name := range o.rest {
		for {
			if err := unix.Rmdir(name); err != nil {
				code = c.fail("%s: %v", name, err)
				break
			}
			if name = filepath.Dir(name); !o.has('p') || name == "." || name == "/" {
				break
			}
		}
	}
	return code
}

func mkfifo(c *call) int {
	code := 0
	for _, name := range c.args {
		if err := unix.Mkfifo(name, 0o666); err != nil {
			code = c.fail("%s: %v", name, err)
		}
	}
	return code
}

func mknod(c *call) int {
	o, err := getopt(c.args, "m:", map[string]byte{"mode": 'm'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) != 2 && len(o.rest) != 4 {
		return c.usage("usage: mknod [-m MODE] NAME b|c|p [MAJOR MINOR]")
	}
	mode, err := strconv.ParseUint(o.last('m', "666"), 8, 12)
	if err != nil {
		return c.usage("invalid mode %q", o.last('m', ""))
	}
	dev := 0
	kind := map[string]uint32{"b": unix.S_IFBLK, "c": unix.S_IFCHR, "u": unix.S_IFCHR, "p": unix.S_IFIFO}[o.rest[1]]
	if kind == 0 || (kind == unix.S_IFIFO) != (len(o.rest) == 2) {
		return c.usage("invalid type %q", o.rest[1])
	}
	if len(o.rest) == 4 {
		major, minor := number(o.rest[2]), number(o.rest[3])
		if major < 0 || minor < 0 {
			return c.usage("invalid device number")
		}
		dev = int(unix.Mkdev(uint32(major), uint32(minor)))
	}
	if err := unix.Mknod(o.rest[0], kind|uint32(mode), dev); err != nil {
		return c.fail("%s: %v", o.rest[0], err)
	}
	return 0
}

// stat prints GNU's default block or the -c format's %n %s %a %A %u %g %U %G %F %i %h %Y %y %t %T %b %B %d %m.
func stat(c *call) int {
	o, err := getopt(c.args, "c:Lf", map[string]byte{"format": 'c', "dereference": 'L', "printf": 'c'})
	if err != nil {
		return c.usage("%v", err)
	}
	code := 0
	for _, name := range o.rest {
		var st unix.Stat_t
		if o.has('L') {
			err = unix.Stat(name, &st)
		} else {
			err = unix.Lstat(name, &st)
		}
		if err != nil {
			code = c.fail("%s: %v", name, err)
			continue
		}
		format := o.last('c', "  File: %N\n  Size: %s\tBlocks: %b\tIO Block: %o\t%F\nDevice: %d\tInode: %i\tLinks: %h\n"+
			"Access: (%a/%A)  Uid: (%u/%U)   Gid: (%g/%G)\nAccess: %x\nModify: %y\nChange: %z")
		fmt.Fprintln(c.out, statFormat(format, name, &st))
	}
	return code
}

func statFormat(format, name string, st *unix.Stat_t) string {
	when := func(t unix.Timespec) string {
		return time.Unix(t.Sec, t.Nsec).Format("2006-01-02 15:04:05.000000000 -0700")
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch format[i] {
		case 'n':
			b.WriteString(name)
		case 'N':
			b.WriteString(name)
			if target, err := os.Readlink(name); err == nil {
				b.WriteString(" -> " + target)
			}
		case 's':
			fmt.Fprint(&b, st.Size)
		case 'a':
			fmt.Fprintf(&b, "%o", st.Mode&0o7777)
		case 'A':
			b.WriteString(modeString(st.Mode))
		case 'f':
			fmt.Fprintf(&b, "%x", st.Mode)
		case 'u':
			fmt.Fprint(&b, st.Uid)
		case 'g':
			fmt.Fprint(&b, st.Gid)
		case 'U':
			b.WriteString(userName(st.Uid))
		case 'G':
			b.WriteString(groupName(st.Gid))
		case 'F':
			b.WriteString(fileType(st))
		case 'i':
			fmt.Fprint(&b, st.Ino)
		case 'h':
			fmt.Fprint(&b, st.Nlink)
		case 'd':
			fmt.Fprint(&b, st.Dev)
		case 'b':
			fmt.Fprint(&b, st.Blocks)
		case 'B':
			b.WriteString("512")
		case 'o':
			fmt.Fprint(&b, st.Blksize)
		case 't':
			fmt.Fprintf(&b, "%x", unix.Major(st.Rdev))
		case 'T':
			fmt.Fprintf(&b, "%x", unix.Minor(st.Rdev))
		case 'X':
			fmt.Fprint(&b, st.Atim.Sec)
		case 'Y':
			fmt.Fprint(&b, st.Mtim.Sec)
		case 'Z':
			fmt.Fprint(&b, st.Ctim.Sec)
		case 'x':
			b.WriteString(when(st.Atim))
		case 'y':
			b.WriteString(when(st.Mtim))
		case 'z':
			b.WriteString(when(st.Ctim))
		default:
			b.WriteByte(format[i])
		}
	}
	return b.String()
}

func fileType(st *unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "character special file"
	case unix.S_IFBLK:
		return "block special file"
	}
	if st.Size == 0 {
		return "regular empty file"
	}
	return "regular file"
}

// modeString is ls's "drwxr-xr-x".
func modeString(mode uint32) string {
	kinds := map[uint32]byte{unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's',
		unix.S_IFCHR: 'c', unix.S_IFBLK: 'b'}
	b := []byte("-rwxrwxrwx")
	if k, ok := kinds[mode&unix.S_IFMT]; ok {
		b[0] = k
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			b[i+1] = '-'
		}
	}
	special := func(bit uint32, at int, with, without byte) {
		if mode&bit == 0 {
			return
		}
		if b[at] == 'x' {
			b[at] = with
		} else {
			b[at] = without
		}
	}
	special(unix.S_ISUID, 3, 's', 'S')
	special(unix.S_ISGID, 6, 's', 'S')
	special(unix.S_ISVTX, 9, 't', 'T')
	return string(b)
}

func userName(id uint32) string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(id), 10)); err == nil {
		return u.Username
	}
	return strconv.FormatUint(uint64(id), 10)
}

func groupName(id uint32) string {
	if g, err := user.LookupGroupId(strconv.FormatUint(uint64(id), 10)); err == nil {
		return g.Name
	}
	return strconv.FormatUint(uint64(id), 10)
}

// chown is also chgrp.
func chown(c *call) int {
	o, err := getopt(c.args, "RhvLHPf", map[string]byte{"recursive": 'R', "no-dereference": 'h'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) < 2 {
		return c.usage("usage: %s [-Rh] OWNER FILE...", c.name)
	}
	uid, gid, err := owner(o.rest[0], c.name == "chgrp")
	if err != nil {
		return c.fail("%v", err)
	}
	code := 0
	apply := func(path string) {
		var err error
		if o.has('h') || o.has('R') {
			err = os.Lchown(path, uid, gid)
		} else {
			err = os.Chown(path, uid, gid)
		}
		if err != nil {
			code = c.report(err)
		}
	}
	for _, name := range o.rest[1:] {
		if !o.has('R') {
			apply(name)
			continue
		}
		err := filepath.WalkDir(name, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			apply(path)
			return nil
		})
		if err != nil {
			code = c.report(err)
		}
	}
	return code
}

// owner reads USER, USER:GROUP, :GROUP or, for chgrp, GROUP; -1 leaves one alone.
func owner(spec string, groupOnly bool) (uid, gid int, err error) {
	name, group, _ := strings.Cut(spec, ":")
	if groupOnly {
		name, group = "", spec
	}
	uid, gid = -1, -1
	if name != "" {
		if uid = number(name); uid < 0 {
			u, err := user.Lookup(name)
			if err != nil {
				return 0, 0, fmt.Errorf("invalid user %q", name)
			}
			uid = number(u.Uid)
		}
	}
	if group != "" {
		if gid = number(group); gid < 0 {
			g, err := user.LookupGroup(group)
			if err != nil {
				return 0, 0, fmt.Errorf("invalid group %q", group)
			}
			gid = number(g.Gid)
		}
	}
	return uid, gid, nil
}

func truncate(c *call) int {
	o, err := getopt(c.args, "s:c", map[string]byte{"size": 's', "no-create": 'c'})
	if err != nil {
		return c.usage("%v", err)
	}
	n, err := size(o.last('s', ""))
	if err != nil || len(o.rest) == 0 {
		return c.usage("usage: truncate -s SIZE FILE...")
	}
	code := 0
	for _, name := range o.rest {
		flags := os.O_WRONLY | os.O_CREATE
		if o.has('c') {
			flags = os.O_WRONLY
		}
		f, err := os.OpenFile(name, flags, 0o666)
		if err == nil {
			err = f.Truncate(n)
			err = errors.Join(err, f.Close())
		}
		if err != nil && !(o.has('c') && errors.Is(err, fs.ErrNotExist)) {
			code = c.report(err)
		}
	}
	return code
}

func compareFiles(c *call) int {
	o, err := getopt(c.args, "s", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) != 2 {
		return c.usage("usage: cmp [-s] FILE1 FILE2")
	}
	var readers [2]*bufio.Reader
	for i, name := range o.rest {
		if name == "-" {
			readers[i] = bufio.NewReader(c.in)
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			c.report(err)
			return 2
		}
		defer f.Close()
		readers[i] = bufio.NewReader(f)
	}
	for at, line := 1, 1; ; at++ {
		x, errX := readers[0].ReadByte()
		y, errY := readers[1].ReadByte()
		switch {
		case errX != nil && errY != nil:
			return 0
		case errX != nil || errY != nil:
			if !o.has('s') {
				short := o.rest[0]
				if errX == nil {
					short = o.rest[1]
				}
				c.fail("EOF on %s after byte %d", short, at-1)
			}
			return 1
		case x != y:
			if !o.has('s') {
				fmt.Fprintf(c.out, "%s %s differ: byte %d, line %d\n", o.rest[0], o.rest[1], at, line)
			}
			return 1
		case x == '\n':
			line++
		}
	}
}

func hexdump(c *call) int {
	o, err := getopt(c.args, "C", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	return c.each(o.rest, func(_ string, r io.Reader) error {
		d := hex.Dumper(c.out)
		if _, err := io.Copy(d, r); err != nil {
			return err
		}
		return d.Close()
	})
}

// checksum is md5sum, sha256sum and sha512sum.
func checksum(c *call) int {
	o, err := getopt(c.args, "cbts", map[string]byte{"check": 'c', "status": 's'})
	if err != nil {
		return c.usage("%v", err)
	}
	newHash := map[string]func() hash.Hash{"md5sum": md5.New, "sha256sum": sha256.New, "sha512sum": sha512.New}[c.name]
	sum := func(r io.Reader) (string, error) {
		h := newHash()
		_, err := io.Copy(h, r)
		return hex.EncodeToString(h.Sum(nil)), err
	}
	if !o.has('c') {
		return c.each(o.rest, func(name string, r io.Reader) error {
			s, err := sum(r)
			if err == nil {
				fmt.Fprintf(c.out, "%s  %s\n", s, name)
			}
			return err
		})
	}
	bad := 0
	code := c.each(o.rest, func(_ string, r io.Reader) error {
		list, err := readLines(r)
		if err != nil {
			return err
		}
		for _, line := range list {
			want, name, ok := strings.Cut(line, " ")
			name = strings.TrimLeft(name, " *")
			if !ok || name == "" {
				return fmt.Errorf("not a checksum line: %q", line)
			}
			got := ""
			err := c.one(name, func(_ string, r io.Reader) (err error) {
				got, err = sum(r)
				return err
			})
			verdict := "OK"
			if err != nil || !strings.EqualFold(got, want) {
				verdict = "FAILED"
				bad++
			}
			if !o.has('s') {
				fmt.Fprintf(c.out, "%s: %s\n", name, verdict)
			}
		}
		return nil
	})
	if bad > 0 {
		return 1
	}
	return code
}

func dd(c *call) int {
	vals := map[string]string{"if": "", "of": "", "bs": "512", "count": "", "skip": "0", "seek": "0", "conv": "",
		"status": "", "iflag": "", "oflag": ""}
	for _, a := range c.args {
		k, v, ok := strings.Cut(a, "=")
		if _, known := vals[k]; !ok || !known {
			return c.usage("unknown operand %q", a)
		}
		vals[k] = v
	}
	nums := map[string]int64{}
	for _, k := range []string{"bs", "skip", "seek"} {
		n, err := size(vals[k])
		if err != nil {
			return c.usage("%s: %v", k, err)
		}
		nums[k] = n
	}
	if nums["bs"] < 1 || nums["bs"] > 1<<30 {
		return c.usage("bs: must be between 1 and 1G")
	}
	count := int64(-1)
	if vals["count"] != "" {
		n, err := size(vals["count"])
		if err != nil {
			return c.usage("count: %v", err)
		}
		count = n
	}
	in, out := c.in, io.Writer(c.out)
	if vals["if"] != "" {
		f, err := os.Open(vals["if"])
		if err != nil {
			return c.report(err)
		}
		defer f.Close()
		in = f
		if endless(f) {
			in = &whole{f}
		}
	}
	var dest *os.File
	if vals["of"] != "" {
		flags := os.O_WRONLY | os.O_CREATE
		if !strings.Contains(vals["conv"], "notrunc") && nums["seek"] == 0 {
			flags |= os.O_TRUNC
		}
		if strings.Contains(vals["oflag"], "direct") {
			flags |= unix.O_DIRECT
		}
		f, err := os.OpenFile(vals["of"], flags, 0o666)
		if err != nil {
			return c.report(err)
		}
		defer f.Close()
		if _, err := f.Seek(nums["seek"]*nums["bs"], io.SeekStart); err != nil {
			return c.report(err)
		}
		out, dest = f, f
	}
	start := time.Now()
	full, partial, bytes, err := ddCopy(out, in, make([]byte, nums["bs"]), nums["skip"], count)
	if err == nil && dest != nil && strings.Contains(vals["conv"], "sync") {
		err = dest.Sync()
	}
	if vals["status"] != "none" {
		secs := time.Since(start).Seconds()
		fmt.Fprintf(c.err, "%d+%d records in\n%d+%d records out\n", full, partial, full, partial)
		fmt.Fprintf(c.err, "%d bytes copied, %.3f s, %.1f MB/s\n", bytes, secs, float64(bytes)/1e6/max(secs, 1e-9))
	}
	return c.report(err)
}

// endless says whether a file is one of the kernel's that never run dry. They give less than was asked for when a signal comes, and
// the Go runtime sends itself some: a block would be cut short by nobody's fault.
func endless(f *os.File) bool {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) != 1 {
		return false
	}
	switch unix.Minor(st.Rdev) {
	case 5, 7, 8, 9: // zero, full, random, urandom
		return true
	}
	return false
}

// whole reads until what was asked for is there, or the end.
type whole struct{ r io.Reader }

// Read implements io.Reader.
func (w *whole) Read(p []byte) (int, error) {
	n, err := io.ReadFull(w.r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

func ddCopy(out io.Writer, in io.Reader, buf []byte, skip, count int64) (full, partial, bytes int64, err error) {
	for i := int64(0); count < 0 || i < count+skip; i++ {
		n, rerr := in.Read(buf)
		if n > 0 && i >= skip {
			if n == len(buf) {
				full++
			} else {
				partial++
			}
			w, werr := out.Write(buf[:n])
			bytes += int64(w)
			if werr != nil {
				return full, partial, bytes, werr
			}
		}
		if errors.Is(rerr, io.EOF) {
			return full, partial, bytes, nil
		}
		if rerr != nil {
			return full, partial, bytes, rerr
		}
	}
	return full, partial, bytes, nil
}

// human prints bytes as 1.5K, 20M.
func human(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	v := float64(n)
	for _, unit := range "KMGTPE" {
		if v /= 1024; v < 1024 {
			if v < 10 {
				return fmt.Sprintf("%.1f%c", v, unit)
			}
			return fmt.Sprintf("%.0f%c", v, unit)
		}
	}
	return strconv.FormatUint(n, 10)
}

func du(c *call) int {
	o, err := getopt(c.args, "shkacmd:x", map[string]byte{"max-depth": 'd', "summarize": 's', "human-readable": 'h'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) == 0 {
		o.rest = []string{"."}
	}
	depth := 1 << 20
	if o.has('d') {
		depth = number(o.last('d', ""))
	}
	if o.has('s') {
		depth = 0
	}
	seen := map[[2]uint64]bool{}
	code := 0
	show := func(bytes uint64, name string) {
		switch {
		case o.has('h'):
			fmt.Fprintf(c.out, "%s\t%s\n", human(bytes), name)
		case o.has('m'):
			fmt.Fprintf(c.out, "%d\t%s\n", (bytes+1<<20-1)>>20, name)
		default:
			fmt.Fprintf(c.out, "%d\t%s\n", bytes>>10, name)
		}
	}
	var walk func(path string, level int) uint64
	walk = func(path string, level int) uint64 {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			code = c.fail("%s: %v", path, err)
			return 0
		}
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if seen[key] {
			return 0
		}
		seen[key] = true
		total := uint64(st.Blocks) * 512
		dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if dir {
			entries, err := os.ReadDir(path)
			if err != nil {
				code = c.report(err)
			}
			for _, e := range entries {
				total += walk(filepath.Join(path, e.Name()), level+1)
			}
		}
		if level <= depth && (dir || level == 0 || o.has('a')) {
			show(total, path)
		}
		return total
	}
	var sum uint64
	for _, name := range o.rest {
		sum += walk(name, 0)
	}
	if o.has('c') {
		show(sum, "total")
	}
	return code
}

func df(c *call) int {
	o, err := getopt(c.args, "hkaTiP", map[string]byte{"human-readable": 'h', "all": 'a', "inodes": 'i'})
	if err != nil {
		return c.usage("%v", err)
	}
	mounts, err := mountTable()
	if err != nil {
		return c.report(err)
	}
	if len(o.rest) > 0 {
		var chosen []mountEntry
		for _, name := range o.rest {
			path, err := canonical(name, false)
			if err != nil {
				return c.report(err)
			}
			best := mountEntry{}
			for _, m := range mounts {
				if (path == m.dir || strings.HasPrefix(path, strings.TrimSuffix(m.dir, "/")+"/")) && len(m.dir) >= len(best.dir) {
					best = m
				}
			}
			chosen = append(chosen, best)
		}
		mounts = chosen
	}
	unit := "1K-blocks"
	if o.has('h') {
		unit = "Size"
	}
	if o.has('i') {
		unit = "Inodes"
	}
	fmt.Fprintf(c.out, "%-20s %10s %10s %10s %4s %s\n", "Filesystem", unit, "Used", "Available", "Use%", "Mounted on")
	for _, m := range mounts {
		var st unix.Statfs_t
		if unix.Statfs(m.dir, &st) != nil || st.Blocks == 0 && !o.has('a') && len(o.rest) == 0 {
			continue
		}
		bs := uint64(st.Bsize)
		total, free, avail := st.Blocks*bs, st.Bfree*bs, st.Bavail*bs
		show := func(n uint64) string { return strconv.FormatUint(n>>10, 10) }
		if o.has('h') {
			show = human
		}
		if o.has('i') {
			total, free, avail = st.Files, st.Ffree, st.Ffree
			show = func(n uint64) string { return strconv.FormatUint(n, 10) }
		}
		used, percent := total-free, "-"
		if used+avail > 0 {
			percent = fmt.Sprintf("%d%%", (used*100+used+avail-1)/(used+avail))
		}
		fmt.Fprintf(c.out, "%-20s %10s %10s %10s %4s %s\n", m.source, show(total), show(used), show(avail), percent, m.dir)
	}
	return 0
}

// cp copies files, links, devices and trees. -a keeps everything it can.
func cp(c *call) int {
	o, err := getopt(c.args, "arRdpPLfinvTu", map[string]byte{"archive": 'a', "recursive": 'r', "force": 'f',
		"preserve": 'p', "verbose": 'v', "no-clobber": 'n', "no-dereference": 'P', "dereference": 'L'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) < 2 {
		return c.usage("usage: cp [-arPpfnv] SOURCE... DESTINATION")
	}
	dest := o.rest[len(o.rest)-1]
	sources := o.rest[:len(o.rest)-1]
	fi, err := os.Stat(dest)
	intoDir := err == nil && fi.IsDir() && !o.has('T')
	if len(sources) > 1 && !intoDir {
		return c.fail("%s: not a directory", dest)
	}
	k := &copier{recursive: o.has('a') || o.has('r') || o.has('R'), keep: o.has('a') || o.has('p'),
		links: (o.has('a') || o.has('P') || o.has('d') || o.has('r') || o.has('R')) && !o.has('L'),
		force: o.has('f'), noClobber: o.has('n')}
	if o.has('v') {
		k.log = c.out
	}
	code := 0
	for _, src := range sources {
		to := dest
		if intoDir {
			to = filepath.Join(dest, filepath.Base(src))
		}
		if err := k.copy(src, to); err != nil {
			code = c.report(err)
		}
	}
	return code
}

// copier copies one tree.
type copier struct {
	recursive, keep, links, force, noClobber bool
	log                                      io.Writer
	root                                     os.FileInfo // the directory being copied, to notice copying into itself
}

func (k *copier) copy(src, dst string) error {
	look := os.Stat
	if k.links {
		look = os.Lstat
	}
	fi, err := look(src)
	if err != nil {
		return err
	}
	if to, err := os.Stat(dst); err == nil {
		if os.SameFile(fi, to) {
			return fmt.Errorf("%s and %s are the same file", src, dst)
		}
		if k.noClobber && !fi.IsDir() {
			return nil
		}
		if to.IsDir() && !fi.IsDir() {
			return fmt.Errorf("%s: is a directory", dst)
		}
	}
	if k.log != nil {
		fmt.Fprintf(k.log, "%s -> %s\n", src, dst)
	}
	st := fi.Sys().(*syscall.Stat_t)
	switch mode := fi.Mode(); {
	case mode.IsDir():
		return k.directory(src, dst, fi)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		if err := os.Remove(dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(target, dst); err != nil {
			return err
		}
	case mode.IsRegular() || !k.recursive:
		if err := k.regular(src, dst, fi); err != nil {
			return err
		}
	default:
		if err := unix.Mknod(dst, st.Mode, int(st.Rdev)); err != nil {
			return &fs.PathError{Op: "mknod", Path: dst, Err: err}
		}
	}
	return k.attributes(dst, fi)
}

func (k *copier) directory(src, dst string, fi os.FileInfo) error {
	if !k.recursive {
		return fmt.Errorf("%s is a directory (not copied; -r copies it)", src)
	}
	made := false
	if _, err := os.Stat(dst); err != nil {
		if err := os.Mkdir(dst, fi.Mode().Perm()|0o700); err != nil {
			return err
		}
		made = true
	}
	if k.root == nil {
		root, err := os.Stat(dst)
		if err != nil {
			return err
		}
		k.root = root
		defer func() { k.root = nil }()
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	var first error
	for _, e := range entries {
		if info, err := e.Info(); err == nil && os.SameFile(info, k.root) {
			continue
		}
		if err := k.copy(filepath.Join(src, e.Name()), filepath.Join(dst, e.Name())); err != nil && first == nil {
			first = err
		}
	}
	if first == nil && made && !k.keep {
		first = os.Chmod(dst, fi.Mode().Perm())
	}
	if first == nil {
		first = k.attributes(dst, fi)
	}
	return first
}

func (k *copier) regular(src, dst string, fi os.FileInfo) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fi.Mode().Perm())
	if err != nil && k.force {
		if rerr := os.Remove(dst); rerr == nil {
			out, err = os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fi.Mode().Perm())
		}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// attributes gives the copy its owner, mode and times. Only root may give files away, so an owner that cannot be
// set is no error.
func (k *copier) attributes(dst string, fi os.FileInfo) error {
	if !k.keep {
		return nil
	}
	st := fi.Sys().(*syscall.Stat_t)
	_ = os.Lchown(dst, int(st.Uid), int(st.Gid))
	if fi.Mode()&fs.ModeSymlink == 0 {
		if err := unix.Chmod(dst, st.Mode&0o7777); err != nil {
			return &fs.PathError{Op: "chmod", Path: dst, Err: err}
		}
	}
	times := []unix.Timespec{{Sec: st.Atim.Sec, Nsec: st.Atim.Nsec}, {Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, dst, times, unix.AT_SYMLINK_NOFOLLOW)
}

// mv renames, and where that would cross file systems copies and removes.
func mv(c *call) int {
	o, err := getopt(c.args, "finvT", map[string]byte{"force": 'f', "no-clobber": 'n', "verbose": 'v'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) < 2 {
		return c.usage("usage: mv [-fn] SOURCE... DESTINATION")
	}
	dest := o.rest[len(o.rest)-1]
	sources := o.rest[:len(o.rest)-1]
	fi, err := os.Stat(dest)
	intoDir := err == nil && fi.IsDir() && !o.has('T')
	if len(sources) > 1 && !intoDir {
		return c.fail("%s: not a directory", dest)
	}
	code := 0
	for _, src := range sources {
		to := dest
		if intoDir {
			to = filepath.Join(dest, filepath.Base(src))
		}
		if _, err := os.Lstat(to); err == nil && o.has('n') {
			continue
		}
		err := unix.Rename(src, to)
		if errors.Is(err, unix.EXDEV) {
			k := &copier{recursive: true, keep: true, links: true, force: true}
			if err = k.copy(src, to); err == nil {
				err = os.RemoveAll(src)
			}
		}
		if err != nil {
			if _, named := errors.AsType[*fs.PathError](err); !named {
				err = fmt.Errorf("%s: %w", src, err)
			}
			code = c.report(err)
		}
	}
	return code
}
