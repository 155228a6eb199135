package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// chmod changes modes, all twelve bits of them: octal, or symbolic as in "u+s,g=rx,+t".
func chmod(c *call) int {
	// A mode may begin with "-", which no option then does.
	args, mode := c.args, ""
	for i, a := range args {
		if a == "--" || !strings.HasPrefix(a, "-") {
			break
		}
		if len(a) > 1 && strings.ContainsRune("rwxXst", rune(a[1])) {
			mode = a
			args = append(append([]string{}, args[:i]...), args[i+1:]...)
			break
		}
	}
	o, err := getopt(args, "Rfvcz:", map[string]byte{"recursive": 'R', "reference": 'z', "quiet": 'f', "silent": 'f',
		"verbose": 'v', "changes": 'c'})
	if err != nil {
		return c.usage("%v", err)
	}
	files := o.rest
	switch {
	case o.has('z'):
		fi, err := os.Stat(o.last('z', ""))
		if err != nil {
			return c.report(err)
		}
		mode = strconv.FormatUint(uint64(bits(fi.Mode())), 8)
	case mode == "" && len(files) > 0:
		mode, files = files[0], files[1:]
	}
	if len(files) == 0 {
		return c.usage("usage: chmod [-R] MODE FILE...")
	}
	if _, err := newMode(mode, 0, false, 0); err != nil {
		return c.fail("%v", err)
	}
	mask := processMask()
	code := 0
	apply := func(path string) {
		fi, err := os.Stat(path)
		if err == nil {
			m, _ := newMode(mode, bits(fi.Mode()), fi.IsDir(), mask) // it was read above
			if err = unix.Chmod(path, m); err != nil {
				err = &fs.PathError{Op: "chmod", Path: path, Err: err}
			} else if o.has('v') {
				fmt.Fprintf(c.out, "mode of '%s' is %04o\n", path, m)
			}
		}
		if err != nil {
			if code = 1; !o.has('f') {
				c.report(err)
			}
		}
	}
	for _, name := range files {
		if !o.has('R') {
			apply(name)
			continue
		}
		err := filepath.WalkDir(name, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if e.Type()&fs.ModeSymlink == 0 {
				apply(path)
			}
			return nil
		})
		if err != nil {
			code = c.report(err)
		}
	}
	return code
}

// bits is a mode as the kernel has it.
func bits(m fs.FileMode) uint32 {
	n := uint32(m.Perm())
	for _, b := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}} {
		if m&b.mode != 0 {
			n |= b.bit
		}
	}
	return n
}

// newMode is what a mode, octal or symbolic (POSIX, chmod), makes of old. An octal one of up to four digits leaves a
// directory its set-group-ID bit, as GNU's chmod does, so that a shared folder stays shared.
func newMode(text string, old uint32, dir bool, mask uint32) (uint32, error) {
	bad := fmt.Errorf("invalid mode: %q", text)
	if text == "" {
		return 0, bad
	}
	if text[0] >= '0' && text[0] <= '9' {
		n, err := strconv.ParseUint(text, 8, 16)
		if err != nil || n > 0o7777 {
			return 0, bad
		}
		if dir && len(text) <= 4 {
			n |= uint64(old & (unix.S_ISUID | unix.S_ISGID))
		}
		return uint32(n), nil
	}
	m := old
	for clause := range strings.SplitSeq(text, ",") {
		who := clause[:len(clause)-len(strings.TrimLeft(clause, "ugoa"))]
		rest := clause[len(who):]
		if rest == "" {
			return 0, bad
		}
		var reach uint32 // the bits that the clause is about
		for _, w := range who {
			reach |= map[rune]uint32{'u': 0o4700, 'g': 0o2070, 'o': 0o1007, 'a': 0o7777}[w]
		}
		if who == "" {
			reach = 0o7777 &^ mask
		}
		for rest != "" {
			op := rest[0]
			if op != '+' && op != '-' && op != '=' {
				return 0, bad
			}
			n := len(rest) - len(strings.TrimLeft(rest[1:], "rwxXstugo"))
			var set uint32
			for _, p := range rest[1:n] {
				switch p {
				case 'r':
					set |= 0o444
				case 'w':
					set |= 0o222
				case 'x':
					set |= 0o111
				case 'X':
					if dir || m&0o111 != 0 {
						set |= 0o111
					}
				case 's':
					set |= 0o6000
				case 't':
					set |= 0o1000
				default: // as another has it
					set |= m >> map[rune]uint32{'u': 6, 'g': 3, 'o': 0}[p] & 7 * 0o111
				}
			}
			// The sticky bit is everybody's.
			set &= reach | map[bool]uint32{true: 0o1000}[who == "" || strings.ContainsAny(who, "ao")]
			switch op {
			case '+':
				m |= set
			case '-':
				m &^= set
			default:
				clear := reach
				if who == "" {
					clear = 0o7777
				}
				if dir {
					clear &^= 0o6000 // kept unless they are named, as GNU's chmod does
				}
				m = m&^clear | set
			}
			rest = rest[n:]
		}
	}
	return m, nil
}

// processMask is the mask of new files, read where reading does not change it.
func processMask() uint32 {
	data, err := os.ReadFile("/proc/self/status")
	if err == nil {
		if _, after, ok := strings.Cut(string(data), "\nUmask:"); ok {
			line, _, _ := strings.Cut(after, "\n")
			if n, err := strconv.ParseUint(strings.TrimSpace(line), 8, 16); err == nil {
				return uint32(n)
			}
		}
	}
	return 0o022
}

// mkdir makes directories.
func mkdir(c *call) int {
	o, err := getopt(c.args, "pvm:", map[string]byte{"parents": 'p', "verbose": 'v', "mode": 'm'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) == 0 {
		return c.usage("usage: mkdir [-p] [-m MODE] DIRECTORY...")
	}
	text := o.last('m', "")
	mode := uint32(0o777)
	if text != "" {
		if mode, err = newMode(text, mode, false, processMask()); err != nil {
			return c.fail("%v", err)
		}
	}
	code := 0
	for _, name := range o.rest {
		if o.has('p') {
			if fi, err := os.Stat(name); err == nil && fi.IsDir() {
				continue
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Clean(name)), 0o777); err != nil {
				code = c.report(err)
				continue
			}
		}
		err := os.Mkdir(name, 0o777)
		if o.has('p') && errors.Is(err, fs.ErrExist) {
			if fi, serr := os.Stat(name); serr == nil && fi.IsDir() {
				continue // somebody else made it meanwhile
			}
		}
		if err == nil && text != "" {
			if err = unix.Chmod(name, mode); err != nil {
				err = &fs.PathError{Op: "chmod", Path: name, Err: err}
			}
		}
		if err != nil {
			code = c.report(err)
		} else if o.has('v') {
			fmt.Fprintln(c.out, name)
		}
	}
	return code
}
