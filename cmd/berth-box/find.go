package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// findParser reads find's expression and holds what the walk needs.
type findParser struct {
	*call
	args               []string
	acts               bool // some action prints or runs, so the implied -print is off
	depthFirst         bool
	xdev               bool
	minDepth, maxDepth int
	rootDev            uint64
	pruned             bool
	failed             bool
	atEnd              []func() error
}

// walk visits one file and what is below it; false when something went wrong.
func (p *findParser) walk(path string, d fs.DirEntry, level int, test findTest) bool {
	ok := true
	visit := func() {
		if level < p.minDepth {
			return
		}
		if _, err := test(path, d, level); err != nil {
			p.report(err)
			ok = false
		}
	}
	p.pruned = false
	if !p.depthFirst {
		visit()
	}
	if d.IsDir() && level < p.maxDepth && !p.pruned && !(p.xdev && p.otherDevice(path)) {
		entries, err := os.ReadDir(path)
		if err != nil {
			p.report(err)
			ok = false
		}
		for _, e := range entries {
			ok = p.walk(joinPath(path, e.Name()), e, level+1, test) && ok
		}
	}
	if p.depthFirst {
		visit()
	}
	return ok
}

// joinPath keeps the root as it was typed ("./x", not "x").
func joinPath(dir, name string) string {
	if strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}

func (p *findParser) otherDevice(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && uint64(st.Dev) != p.rootDev
}

func (p *findParser) or() (findTest, error) {
	left, err := p.and()
	for err == nil && len(p.args) > 0 && (p.args[0] == "-o" || p.args[0] == "-or") {
		p.args = p.args[1:]
		l := left
		var right findTest
		if right, err = p.and(); err == nil {
			left = func(path string, d fs.DirEntry, level int) (bool, error) {
				if ok, err := l(path, d, level); ok || err != nil {
					return ok, err
				}
				return right(path, d, level)
			}
		}
	}
	return left, err
}

func (p *findParser) and() (findTest, error) {
	var all []findTest
	for len(p.args) > 0 && p.args[0] != "-o" && p.args[0] != "-or" && p.args[0] != ")" {
		if p.args[0] == "-a" || p.args[0] == "-and" {
			p.args = p.args[1:]
			continue
		}
		t, err := p.primary()
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return func(path string, d fs.DirEntry, level int) (bool, error) {
		for _, t := range all {
			if ok, err := t(path, d, level); !ok || err != nil {
				return false, err
			}
		}
		return true, nil
	}, nil
}

// value takes the argument of a primary.
func (p *findParser) value(name string) (string, error) {
	if len(p.args) == 0 {
		return "", fmt.Errorf("%s requires an argument", name)
	}
	v := p.args[0]
	p.args = p.args[1:]
	return v, nil
}

func always(string, fs.DirEntry, int) (bool, error) { return true, nil }

func (p *findParser) primary() (findTest, error) {
	name := p.args[0]
	p.args = p.args[1:]
	switch name {
	case "!", "-not":
		if len(p.args) == 0 {
			return nil, fmt.Errorf("%s requires an expression", name)
		}
		t, err := p.primary()
		if err != nil {
			return nil, err
		}
		return func(path string, d fs.DirEntry, level int) (bool, error) {
			ok, err := t(path, d, level)
			return !ok && err == nil, err
		}, nil
	case "(":
		t, err := p.or()
		if err == nil && (len(p.args) == 0 || p.args[0] != ")") {
			err = errors.New("missing )")
		}
		if err == nil {
			p.args = p.args[1:]
		}
		return t, err
	case "-print", "-print0":
		p.acts = true
		end := "\n"
		if name == "-print0" {
			end = "\x00"
		}
		return func(path string, _ fs.DirEntry, _ int) (bool, error) {
			_, err := p.out.WriteString(path + end)
			return true, err
		}, nil
	case "-delete":
		p.acts, p.depthFirst = true, true
		return func(path string, _ fs.DirEntry, _ int) (bool, error) { return true, os.Remove(path) }, nil
	case "-prune":
		return func(string, fs.DirEntry, int) (bool, error) { p.pruned = true; return true, nil }, nil
	case "-depth":
		p.depthFirst = true
		return always, nil
	case "-xdev", "-mount":
		p.xdev = true
		return always, nil
	case "-exec":
		return p.exec()
	case "-empty":
		return func(path string, d fs.DirEntry, _ int) (bool, error) {
			if d.IsDir() {
				list, err := os.ReadDir(path)
				return len(list) == 0, err
			}
			fi, err := d.Info()
			return err == nil && d.Type().IsRegular() && fi.Size() == 0, err
		}, nil
	}
	return p.valued(name)
}

// valued reads the primaries that take one argument.
func (p *findParser) valued(name string) (findTest, error) {
	v, err := p.value(name)
	if err != nil {
		return nil, err
	}
	stat := func(fn func(path string, st *unix.Stat_t) bool) findTest {
		return func(path string, _ fs.DirEntry, _ int) (bool, error) {
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return false, &fs.PathError{Op: "lstat", Path: path, Err: err}
			}
			return fn(path, &st), nil
		}
	}
	switch name {
	case "-name", "-iname", "-path", "-wholename", "-ipath":
		fold := name[1] == 'i'
		if fold {
			v = strings.ToLower(v)
		}
		if _, err := filepath.Match(v, ""); err != nil {
			return nil, fmt.Errorf("bad pattern %q", v)
		}
		return func(path string, _ fs.DirEntry, _ int) (bool, error) {
			s := path
			if strings.HasSuffix(name, "name") && name != "-wholename" {
				s = filepath.Base(path)
			} else {
				s = strings.ReplaceAll(s, "/", "\x01") // in -path, * matches slashes
			}
			if fold {
				s = strings.ToLower(s)
			}
			return filepath.Match(strings.ReplaceAll(v, "/", "\x01"), s)
		}, nil
	case "-type":
		kinds := map[string]fs.FileMode{"f": 0, "d": fs.ModeDir, "l": fs.ModeSymlink, "p": fs.ModeNamedPipe,
			"s": fs.ModeSocket, "b": fs.ModeDevice, "c": fs.ModeDevice | fs.ModeCharDevice}
		var want []fs.FileMode
		for part := range strings.SplitSeq(v, ",") {
			k, ok := kinds[part]
			if !ok {
				return nil, fmt.Errorf("unknown type %q", part)
			}
			want = append(want, k)
		}
		return func(_ string, d fs.DirEntry, _ int) (bool, error) {
			for _, k := range want {
				if d.Type() == k {
					return true, nil
				}
			}
			return false, nil
		}, nil
	case "-maxdepth", "-mindepth":
		n := number(v)
		if n < 0 {
			return nil, fmt.Errorf("%s: %q is not a number", name, v)
		}
		if name == "-maxdepth" {
			p.maxDepth = n
		} else {
			p.minDepth = n
		}
		return always, nil
	case "-size":
		unit := int64(512)
		trimmed := strings.TrimRight(v, "cwbkMG")
		if suffix := v[len(trimmed):]; suffix != "" {
			unit = map[string]int64{"c": 1, "w": 2, "b": 512, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}[suffix]
		}
		match, err := compareTo(trimmed)
		if err != nil || unit == 0 {
			return nil, fmt.Errorf("-size: bad size %q", v)
		}
		return stat(func(_ string, st *unix.Stat_t) bool { return match((st.Size + unit - 1) / unit) }), nil
	case "-mtime", "-mmin":
		unit := 24 * time.Hour
		if name == "-mmin" {
			unit = time.Minute
		}
		match, err := compareTo(v)
		if err != nil {
			return nil, err
		}
		return stat(func(_ string, st *unix.Stat_t) bool {
			return match(int64(time.Since(time.Unix(st.Mtim.Sec, st.Mtim.Nsec)) / unit))
		}), nil
	case "-newer":
		var ref unix.Stat_t
		if err := unix.Stat(v, &ref); err != nil {
			return nil, fmt.Errorf("%s: %w", v, err)
		}
		return stat(func(_ string, st *unix.Stat_t) bool {
			return st.Mtim.Sec > ref.Mtim.Sec || st.Mtim.Sec == ref.Mtim.Sec && st.Mtim.Nsec > ref.Mtim.Nsec
		}), nil
	case "-user", "-uid", "-group", "-gid":
		group := name == "-group" || name == "-gid"
		uid, gid, err := owner(v, group)
		if err != nil {
			return nil, err
		}
		return stat(func(_ string, st *unix.Stat_t) bool {
			if group {
				return int(st.Gid) == gid
			}
			return int(st.Uid) == uid
		}), nil
	case "-perm":
		bits, err := strconv.ParseUint(strings.TrimLeft(v, "-/"), 8, 12)
		if err != nil {
			return nil, fmt.Errorf("-perm: %q is not an octal mode", v)
		}
		return stat(func(_ string, st *unix.Stat_t) bool {
			mode := uint64(st.Mode & 0o7777)
			switch v[0] {
			case '-':
				return mode&bits == bits
			case '/':
				return bits == 0 || mode&bits != 0
			}
			return mode == bits
		}), nil
	case "-links", "-inum":
		match, err := compareTo(v)
		if err != nil {
			return nil, err
		}
		return stat(func(_ string, st *unix.Stat_t) bool {
			if name == "-inum" {
				return match(int64(st.Ino))
			}
			return match(int64(st.Nlink))
		}), nil
	}
	return nil, fmt.Errorf("unknown predicate %q", name)
}

// compareTo reads find's numbers: +N more, -N less, N exactly.
func compareTo(v string) (func(int64) bool, error) {
	n, err := strconv.ParseInt(strings.TrimLeft(v, "+-"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is not a number", v)
	}
	switch v[0] {
	case '+':
		return func(x int64) bool { return x > n }, nil
	case '-':
		return func(x int64) bool { return x < n }, nil
	}
	return func(x int64) bool { return x == n }, nil
}

// exec reads -exec COMMAND ; or -exec COMMAND {} +.
func (p *findParser) exec() (findTest, error) {
	p.acts = true
	var words []string
	for {
		w, err := p.value("-exec")
		if err != nil {
			return nil, errors.New("-exec: missing ;")
		}
		if w == ";" {
			break
		}
		if w == "+" && len(words) > 0 && words[len(words)-1] == "{}" {
			return p.execMany(words[:len(words)-1]), nil
		}
		words = append(words, w)
	}
	if len(words) == 0 {
		return nil, errors.New("-exec: missing command")
	}
	return func(path string, _ fs.DirEntry, _ int) (bool, error) {
		args := make([]string, len(words))
		for i, w := range words {
			args[i] = strings.ReplaceAll(w, "{}", path)
		}
		err := p.command(args)
		if _, failed := errors.AsType[*exec.ExitError](err); failed {
			return false, nil
		}
		return err == nil, err
	}, nil
}

func (p *findParser) execMany(words []string) findTest {
	var paths []string
	flush := func() error {
		if len(paths) == 0 {
			return nil
		}
		err := p.command(append(append([]string{}, words...), paths...))
		paths = nil
		if _, failed := errors.AsType[*exec.ExitError](err); failed {
			p.failed = true
			return nil
		}
		return err
	}
	p.atEnd = append(p.atEnd, flush)
	return func(path string, _ fs.DirEntry, _ int) (bool, error) {
		paths = append(paths, path)
		if len(paths) >= 1000 {
			return true, flush()
		}
		return true, nil
	}
}

func (p *findParser) command(args []string) error {
	if err := p.out.Flush(); err != nil {
		return err
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in, os.Stdout, p.err
	return cmd.Run()
}
