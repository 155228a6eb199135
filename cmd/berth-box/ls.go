package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// lsEntry is one line of ls.
type lsEntry struct {
	name, path string
	st         unix.Stat_t
}

func (e *lsEntry) isDir() bool { return e.st.Mode&unix.S_IFMT == unix.S_IFDIR }

func ls(c *call) int {
	o, err := getopt(c.args, "1aAlhdFRrStinspCLx", map[string]byte{"all": 'a', "almost-all": 'A', "recursive": 'R',
		"human-readable": 'h', "directory": 'd', "classify": 'F', "inode": 'i', "reverse": 'r', "numeric-uid-gid": 'n'})
	if err != nil {
		return c.usage("%v", err)
	}
	if o.has('n') {
		o.count['l']++
	}
	names := o.rest
	if len(names) == 0 {
		names = []string{"."}
	}
	l := &lister{call: c, o: o}
	var files, dirs []lsEntry
	for _, name := range names {
		e, err := l.entry(name, name, true)
		if err != nil {
			l.code = c.fail("%s: %v", name, err)
			continue
		}
		if e.isDir() && !o.has('d') {
			dirs = append(dirs, e)
		} else {
			files = append(files, e)
		}
	}
	l.order(files)
	l.print(files)
	for i, d := range dirs {
		if len(names) > 1 || o.has('R') {
			if i > 0 || len(files) > 0 {
				fmt.Fprintln(c.out)
			}
			fmt.Fprintf(c.out, "%s:\n", d.name)
		}
		l.dir(d.path)
	}
	return l.code
}

type lister struct {
	*call
	o    *options
	code int
}

// entry looks at one file. A link named on the command line is followed unless the long form is asked for.
func (l *lister) entry(name, path string, named bool) (lsEntry, error) {
	e := lsEntry{name: name, path: path}
	var err error
	if l.o.has('L') || named && !l.o.has('l') && !l.o.has('d') {
		err = unix.Stat(path, &e.st)
		if err == nil {
			return e, nil
		}
	}
	err = unix.Lstat(path, &e.st)
	return e, err
}

func (l *lister) dir(path string) {
	entries, err := os.ReadDir(path)
	if err != nil {
		l.code = l.report(err)
	}
	var list []lsEntry
	add := func(name string) {
		e, err := l.entry(name, filepath.Join(path, name), false)
		if err != nil {
			l.code = l.fail("%s: %v", e.path, err)
			return
		}
		list = append(list, e)
	}
	if l.o.has('a') {
		add(".")
		add("..")
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") || l.o.has('a') || l.o.has('A') {
			add(e.Name())
		}
	}
	l.order(list)
	if l.o.has('l') || l.o.has('s') {
		var blocks int64
		for _, e := range list {
			blocks += e.st.Blocks
		}
		fmt.Fprintf(l.out, "total %d\n", blocks/2)
	}
	l.print(list)
	if !l.o.has('R') {
		return
	}
	for _, e := range list {
		if e.isDir() && e.name != "." && e.name != ".." {
			fmt.Fprintf(l.out, "\n%s:\n", e.path)
			l.dir(e.path)
		}
	}
}

func (l *lister) order(list []lsEntry) {
	slices.SortStableFunc(list, func(a, b lsEntry) int {
		d := 0
		switch {
		case l.o.has('t'):
			d = cmp.Or(cmp.Compare(b.st.Mtim.Sec, a.st.Mtim.Sec), cmp.Compare(b.st.Mtim.Nsec, a.st.Mtim.Nsec))
		case l.o.has('S'):
			d = cmp.Compare(b.st.Size, a.st.Size)
		}
		d = cmp.Or(d, cmp.Compare(a.name, b.name))
		if l.o.has('r') {
			return -d
		}
		return d
	})
}

func (l *lister) print(list []lsEntry) {
	if l.o.has('l') {
		l.long(list)
		return
	}
	var cells []string
	for _, e := range list {
		cell := e.name + l.mark(&e)
		if l.o.has('s') {
			cell = strconv.FormatInt(e.st.Blocks/2, 10) + " " + cell
		}
		if l.o.has('i') {
			cell = strconv.FormatUint(e.st.Ino, 10) + " " + cell
		}
		cells = append(cells, cell)
	}
	width := 0
	if f, ok := l.terminal(); ok && !l.o.has('1') {
		width = f
	}
	columns(l.call, cells, width)
}

// terminal is the width of the terminal written to, if it is one.
func (l *lister) terminal() (int, bool) {
	w, _, err := term.GetSize(1)
	return w, err == nil && w > 0
}

// columns prints the cells downwards in as many columns as fit; width 0 is one a line.
func columns(c *call, cells []string, width int) {
	longest := 0
	for _, s := range cells {
		longest = max(longest, len(s))
	}
	perRow := max(1, width/(longest+2))
	rows := (len(cells) + perRow - 1) / perRow
	for r := range rows {
		for i := r; i < len(cells); i += rows {
			if i+rows < len(cells) {
				fmt.Fprintf(c.out, "%-*s", longest+2, cells[i])
			} else {
				c.out.WriteString(cells[i])
			}
		}
		c.out.WriteByte('\n')
	}
}

// mark is -F's character after a name.
func (l *lister) mark(e *lsEntry) string {
	if l.o.has('p') && e.isDir() {
		return "/"
	}
	if !l.o.has('F') {
		return ""
	}
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "/"
	case unix.S_IFLNK:
		return "@"
	case unix.S_IFIFO:
		return "|"
	case unix.S_IFSOCK:
		return "="
	}
	if e.st.Mode&0o111 != 0 {
		return "*"
	}
	return ""
}

func (l *lister) long(list []lsEntry) {
	rows := make([][6]string, len(list))
	var width [6]int
	for i, e := range list {
		who, group := strconv.FormatUint(uint64(e.st.Uid), 10), strconv.FormatUint(uint64(e.st.Gid), 10)
		if !l.o.has('n') {
			who, group = userName(e.st.Uid), groupName(e.st.Gid)
		}
		size := strconv.FormatInt(e.st.Size, 10)
		if l.o.has('h') {
			size = human(uint64(e.st.Size))
		}
		if kind := e.st.Mode & unix.S_IFMT; kind == unix.S_IFCHR || kind == unix.S_IFBLK {
			size = fmt.Sprintf("%d, %d", unix.Major(e.st.Rdev), unix.Minor(e.st.Rdev))
		}
		when := time.Unix(e.st.Mtim.Sec, 0)
		layout := "Jan _2 15:04"
		if age := time.Since(when); age > 182*24*time.Hour || age < -time.Hour {
			layout = "Jan _2  2006"
		}
		rows[i] = [6]string{modeString(e.st.Mode), strconv.FormatUint(uint64(e.st.Nlink), 10), who, group, size,
			when.Format(layout)}
		for k, cell := range rows[i] {
			width[k] = max(width[k], len(cell))
		}
	}
	for i, e := range list {
		r := rows[i]
		if l.o.has('i') {
			fmt.Fprintf(l.out, "%8d ", e.st.Ino)
		}
		fmt.Fprintf(l.out, "%s %*s %-*s %-*s %*s %s %s%s", r[0], width[1], r[1], width[2], r[2], width[3], r[3],
			width[4], r[4], r[5], e.name, l.mark(&e))
		if e.st.Mode&unix.S_IFMT == unix.S_IFLNK {
			if target, err := os.Readlink(e.path); err == nil {
				fmt.Fprintf(l.out, " -> %s", target)
			}
		}
		l.out.WriteByte('\n')
	}
}

// findTest decides about one file; an action returns true too.
type findTest func(path string, d fs.DirEntry, level int) (bool, error)

// findFiles is find: -name -iname -path -type -maxdepth -mindepth -size -mtime -mmin -newer -user -group -uid -gid -perm
// -empty -links -inum -xdev -print -print0 -delete -exec … \; -exec … + -prune, with !, -o, -a and parentheses.
func findFiles(c *call) int {
	roots := []string{}
	args := c.args
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") && args[0] != "!" && args[0] != "(" {
		roots, args = append(roots, args[0]), args[1:]
	}
	if len(roots) == 0 {
		roots = []string{"."}
	}
	p := &findParser{call: c, args: args, maxDepth: 1 << 30}
	test, err := p.or()
	if err == nil && len(p.args) > 0 {
		err = fmt.Errorf("unexpected %q", p.args[0])
	}
	if err != nil {
		return c.usage("%v", err)
	}
	if !p.acts {
		inner := test
		test = func(path string, d fs.DirEntry, level int) (bool, error) {
			ok, err := inner(path, d, level)
			if ok && err == nil {
				fmt.Fprintln(c.out, path)
			}
			return ok, err
		}
	}
	code := 0
	for _, root := range roots {
		fi, err := os.Lstat(root)
		if err != nil {
			code = c.report(err)
			continue
		}
		p.rootDev = 0
		var st unix.Stat_t
		if unix.Lstat(root, &st) == nil {
			p.rootDev = uint64(st.Dev)
		}
		if !p.walk(root, fs.FileInfoToDirEntry(fi), 0, test) {
			code = 1
		}
	}
	for _, flush := range p.atEnd {
		if err := flush(); err != nil {
			code = c.report(err)
		}
	}
	if p.failed {
		code = 1
	}
	return code
}
