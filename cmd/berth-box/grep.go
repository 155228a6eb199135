package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// grep exits 0 when a line matched, 1 when none did, 2 on errors, as POSIX has it.
func grep(c *call) int {
	o, err := getopt(c.args, "EFGivclLnqsoxwrRhHe:f:m:A:B:C:", map[string]byte{"extended-regexp": 'E',
		"fixed-strings": 'F', "ignore-case": 'i', "invert-match": 'v', "count": 'c', "files-with-matches": 'l',
		"line-number": 'n', "quiet": 'q', "silent": 'q', "only-matching": 'o', "line-regexp": 'x', "word-regexp": 'w',
		"recursive": 'r', "no-filename": 'h', "with-filename": 'H', "regexp": 'e', "file": 'f', "max-count": 'm',
		"no-messages": 's'})
	if err != nil {
		return c.usage("%v", err)
	}
	patterns := o.value['e']
	for _, file := range o.value['f'] {
		if err := c.one(file, func(_ string, r io.Reader) error {
			list, err := readLines(r)
			patterns = append(patterns, list...)
			return err
		}); err != nil {
			c.report(err)
			return 2
		}
	}
	files := o.rest
	if !o.has('e') && !o.has('f') {
		if len(files) == 0 {
			return c.usage("usage: grep [OPTION...] PATTERN [FILE...]")
		}
		patterns, files = strings.Split(files[0], "\n"), files[1:]
	}
	re, err := grepPattern(patterns, o)
	if err != nil {
		return c.usage("%v", err)
	}
	g := &grepRun{call: c, o: o, re: re, limit: -1}
	for _, letter := range []byte("ABC") {
		if _, err := strconv.Atoi(o.last(letter, "0")); err != nil {
			return c.usage("invalid number %q", o.last(letter, ""))
		}
	}
	g.before = number(o.last('B', o.last('C', "0")))
	g.after = number(o.last('A', o.last('C', "0")))
	if o.has('m') {
		if g.limit = number(o.last('m', "")); g.limit < 0 {
			return c.usage("invalid number %q", o.last('m', ""))
		}
	}
	if o.has('r') || o.has('R') {
		if files, err = walkFiles(files); err != nil {
			g.failed = true
			c.report(err)
		}
		g.named = true
	}
	g.named = (g.named || len(files) > 1 || o.has('H')) && !o.has('h')
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, name := range files {
		if err := c.one(name, g.file); err != nil {
			g.failed = true
			if !o.has('s') {
				c.report(err)
			}
		}
		if g.matched && o.has('q') {
			return 0
		}
	}
	switch {
	case g.failed:
		return 2
	case g.matched:
		return 0
	}
	return 1
}

// walkFiles lists the regular files below the given names.
func walkFiles(roots []string) ([]string, error) {
	if len(roots) == 0 {
		roots = []string{"."}
	}
	var files []string
	var first error
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if first == nil {
					first = err
				}
				return nil
			}
			if d.Type().IsRegular() || path == root && d.Type()&os.ModeSymlink != 0 {
				files = append(files, path)
			}
			return nil
		})
		if err != nil && first == nil {
			first = err
		}
	}
	return files, first
}

func grepPattern(patterns []string, o *options) (*regexp.Regexp, error) {
	var parts []string
	for _, p := range patterns {
		if o.has('F') {
			parts = append(parts, regexp.QuoteMeta(p))
			continue
		}
		re, err := posixRegexp(p, o.has('E'), false)
		if err != nil {
			return nil, err
		}
		parts = append(parts, re.String())
	}
	all := "(?:" + strings.Join(parts, "|") + ")"
	if o.has('w') {
		all = `\b` + all + `\b`
	}
	if o.has('x') {
		all = "^" + all + "$"
	}
	if o.has('i') {
		all = "(?i)" + all
	}
	return regexp.Compile(all)
}

// grepRun is one run of grep over its files.
type grepRun struct {
	*call
	o             *options
	re            *regexp.Regexp
	named         bool
	before, after int
	limit         int
	matched       bool
	failed        bool
}

func (g *grepRun) file(name string, r io.Reader) error {
	if name == "-" {
		name = "(standard input)"
	}
	count, lineNo, trailing, printedTo := 0, 0, 0, 0
	var recent []string // the last g.before lines
	quiet := g.o.has('q') || g.o.has('c') || g.o.has('l') || g.o.has('L')
	show := func(no int, mark string, text string) {
		if g.named {
			g.out.WriteString(name + mark)
		}
		if g.o.has('n') {
			g.out.WriteString(strconv.Itoa(no) + mark)
		}
		g.out.WriteString(text + "\n")
		printedTo = no
	}
	err := lines(r, func(line string) bool {
		lineNo++
		line = strings.TrimSuffix(line, "\n")
		if g.re.MatchString(line) == g.o.has('v') {
			if trailing > 0 && !quiet {
				trailing--
				show(lineNo, "-", line)
			} else if g.before > 0 {
				recent = append(recent, line)
				if len(recent) > g.before {
					recent = recent[1:]
				}
			}
			return true
		}
		count++
		g.matched = true
		if g.o.has('q') || g.o.has('l') || g.o.has('L') {
			return false
		}
		if !quiet {
			if (g.before > 0 || g.after > 0) && printedTo > 0 && lineNo-len(recent) > printedTo+1 {
				g.out.WriteString("--\n")
			}
			for i, old := range recent {
				show(lineNo-len(recent)+i, "-", old)
			}
			recent = recent[:0]
			if g.o.has('o') && !g.o.has('v') {
				for _, m := range g.re.FindAllString(line, -1) {
					if m != "" {
						show(lineNo, ":", m)
					}
				}
			} else {
				show(lineNo, ":", line)
			}
			trailing = g.after
		}
		return g.limit < 0 || count < g.limit
	})
	switch {
	case g.o.has('q'):
	case g.o.has('l'):
		if count > 0 {
			fmt.Fprintln(g.out, name)
		}
	case g.o.has('L'):
		if count == 0 {
			fmt.Fprintln(g.out, name)
		}
	case g.o.has('c'):
		if g.named {
			fmt.Fprintf(g.out, "%s:", name)
		}
		fmt.Fprintln(g.out, count)
	}
	return err
}
