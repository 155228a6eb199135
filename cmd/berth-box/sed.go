package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// sedAddress is a line number, $, or a pattern.
type sedAddress struct {
	line int // 0: none
	last bool
	re   *regexp.Regexp
}

// sedCommand is one command with its addresses.
type sedCommand struct {
	from, to *sedAddress
	negate   bool
	active   bool // inside a range
	verb     byte
	text     string // a i c, or the target of b t
	re       *regexp.Regexp
	replace  string
	global   bool
	print    bool
	nth      int
	from1    string // y
	to1      string
	block    []*sedCommand
}

// sed knows s y d D p q = a i c n N G H g h x and {}; not branches, labels or w.
func sed(c *call) int {
	o, err := getopt(c.args, "nErsie:f:", map[string]byte{"quiet": 'n', "silent": 'n', "regexp-extended": 'E',
		"expression": 'e', "file": 'f', "in-place": 'i'})
	if err != nil {
		return c.usage("%v", err)
	}
	script, files := strings.Join(o.value['e'], "\n"), o.rest
	for _, name := range o.value['f'] {
		data, err := os.ReadFile(name)
		if err != nil {
			return c.report(err)
		}
		script += "\n" + string(data)
	}
	if !o.has('e') && !o.has('f') {
		if len(files) == 0 {
			return c.usage("usage: sed [-nEi] SCRIPT [FILE...]")
		}
		script, files = files[0], files[1:]
	}
	p := &sedParser{src: script, extended: o.has('E') || o.has('r')}
	prog, err := p.commands(false)
	if err != nil {
		return c.usage("%v", err)
	}
	if !o.has('i') {
		var all []string
		code := c.each(files, func(_ string, r io.Reader) error {
			list, err := readLines(r)
			all = append(all, list...)
			return err
		})
		run := &sedRun{prog: prog, lines: all, quiet: o.has('n'), out: c.out}
		if exit := run.run(); code == 0 {
			code = exit
		}
		return code
	}
	code := 0
	for _, name := range files {
		if err := sedInPlace(prog, name, o.has('n')); err != nil {
			code = c.report(err)
		}
	}
	return code
}

func sedInPlace(prog []*sedCommand, name string, quiet bool) error {
	fi, err := os.Stat(name)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	list, err := readLines(bytes.NewReader(data))
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	(&sedRun{prog: prog, lines: list, quiet: quiet, out: &buf}).run()
	return os.WriteFile(name, buf.Bytes(), fi.Mode().Perm())
}

// sedParser reads a script.
type sedParser struct {
	src      string
	pos      int
	extended bool
}

func (p *sedParser) skip(set string) {
	for p.pos < len(p.src) && strings.IndexByte(set, p.src[p.pos]) >= 0 {
		p.pos++
	}
}

func (p *sedParser) peek() byte {
	if p.pos < len(p.src) {
		return p.src[p.pos]
	}
	return 0
}

func (p *sedParser) commands(inBlock bool) ([]*sedCommand, error) {
	var list []*sedCommand
	for {
		p.skip(" \t\n;")
		switch {
		case p.pos >= len(p.src):
			if inBlock {
				return nil, errors.New("missing }")
			}
			return list, nil
		case p.peek() == '}':
			if !inBlock {
				return nil, errors.New("unexpected }")
			}
			p.pos++
			return list, nil
		case p.peek() == '#':
			p.line()
			continue
		}
		cmd, err := p.command()
		if err != nil {
			return nil, err
		}
		list = append(list, cmd)
	}
}

func (p *sedParser) line() string {
	rest := p.src[p.pos:]
	text, _, _ := strings.Cut(rest, "\n")
	p.pos += len(text)
	return text
}

func (p *sedParser) command() (*sedCommand, error) {
	cmd := &sedCommand{nth: 1}
	var err error
	if cmd.from, err = p.address(); err != nil {
		return nil, err
	}
	p.skip(" \t")
	if cmd.from != nil && p.peek() == ',' {
		p.pos++
		p.skip(" \t")
		if cmd.to, err = p.address(); err != nil {
			return nil, err
		}
		if cmd.to == nil {
			return nil, errors.New("unexpected ,")
		}
	}
	p.skip(" \t")
	for p.peek() == '!' {
		cmd.negate = true
		p.pos++
		p.skip(" \t")
	}
	cmd.verb = p.peek()
	p.pos++
	switch cmd.verb {
	case '{':
		cmd.block, err = p.commands(true)
	case 's':
		err = p.substitute(cmd)
	case 'y':
		var parts [2]string
		parts, err = p.delimited()
		from, _ := unescape(parts[0])
		to, _ := unescape(parts[1])
		cmd.from1, cmd.to1 = from, to
		if err == nil && len([]rune(from)) != len([]rune(to)) {
			err = errors.New("strings for y are of different length")
		}
	case 'a', 'i', 'c':
		p.skip(" \t")
		if p.peek() == '\\' {
			p.pos++
			p.skip(" \t\n")
		}
		cmd.text, _ = unescape(p.line())
	case 'q', 'Q':
		p.skip(" \t")
		start := p.pos
		p.skip("0123456789")
		cmd.text = p.src[start:p.pos]
	case 'd', 'D', 'p', 'P', '=', 'n', 'N', 'g', 'G', 'h', 'H', 'x':
	case 0:
		err = errors.New("missing command")
	default:
		err = fmt.Errorf("unknown command: %q", string(cmd.verb))
	}
	return cmd, err
}

func (p *sedParser) address() (*sedAddress, error) {
	switch ch := p.peek(); {
	case ch == '$':
		p.pos++
		return &sedAddress{last: true}, nil
	case ch >= '0' && ch <= '9':
		start := p.pos
		p.skip("0123456789")
		n, err := strconv.Atoi(p.src[start:p.pos])
		return &sedAddress{line: n}, err
	case ch == '/':
		p.pos++
		text, err := p.until('/')
		if err != nil {
			return nil, err
		}
		fold := false
		if p.peek() == 'I' {
			p.pos++
			fold = true
		}
		re, err := posixRegexp(text, p.extended, fold)
		return &sedAddress{re: re}, err
	}
	return nil, nil
}

// until reads up to an unescaped delimiter; inside brackets it does not count.
func (p *sedParser) until(delim byte) (string, error) {
	var b strings.Builder
	for p.pos < len(p.src) {
		ch := p.src[p.pos]
		switch {
		case ch == '\\' && p.pos+1 < len(p.src):
			next := p.src[p.pos+1]
			switch {
			case next == delim:
				b.WriteByte(delim)
			case next == 'n':
				b.WriteByte('\n')
			default:
				b.WriteByte(ch)
				b.WriteByte(next)
			}
			p.pos += 2
			continue
		case ch == delim:
			p.pos++
			return b.String(), nil
		case ch == '[':
			end := bracketEnd(p.src, p.pos)
			if end <= len(p.src) && p.src[end-1] == ']' {
				b.WriteString(p.src[p.pos:end])
				p.pos = end
				continue
			}
		}
		b.WriteByte(ch)
		p.pos++
	}
	return "", fmt.Errorf("missing %q", string(delim))
}

// delimited reads the two parts of s and y.
func (p *sedParser) delimited() (parts [2]string, err error) {
	delim := p.peek()
	if delim == 0 || delim == '\n' || delim == '\\' {
		return parts, errors.New("missing delimiter")
	}
	p.pos++
	if parts[0], err = p.until(delim); err != nil {
		return parts, err
	}
	parts[1], err = p.replacement(delim)
	return parts, err
}

// replacement reads up to the delimiter; brackets mean nothing here.
func (p *sedParser) replacement(delim byte) (string, error) {
	var b strings.Builder
	for p.pos < len(p.src) {
		ch := p.src[p.pos]
		if ch == delim {
			p.pos++
			return b.String(), nil
		}
		if ch == '\\' && p.pos+1 < len(p.src) {
			if next := p.src[p.pos+1]; next != delim || delim == '&' {
				b.WriteByte(ch)
			}
			p.pos++
			ch = p.src[p.pos]
		}
		b.WriteByte(ch)
		p.pos++
	}
	return "", fmt.Errorf("missing %q", string(delim))
}

func (p *sedParser) substitute(cmd *sedCommand) error {
	parts, err := p.delimited()
	if err != nil {
		return err
	}
	fold := false
	cmd.replace = parts[1]
	for {
		ch := p.peek()
		switch {
		case ch == 'g':
			cmd.global = true
		case ch == 'p':
			cmd.print = true
		case ch == 'i' || ch == 'I':
			fold = true
		case ch >= '1' && ch <= '9':
			cmd.nth = int(ch - '0')
		case ch == 0 || strings.IndexByte(" \t\n;}#", ch) >= 0:
			cmd.re, err = posixRegexp(parts[0], p.extended, fold)
			return err
		default:
			return fmt.Errorf("unknown option to s: %q", string(ch))
		}
		p.pos++
	}
}

// sedRun is one pass over the lines.
type sedRun struct {
	prog   []*sedCommand
	lines  []string
	quiet  bool
	out    io.Writer
	at     int // index of the current line
	space  string
	hold   string
	append []string
}

// sedEnd says how a cycle ended.
type sedEnd int

const (
	sedGoOn sedEnd = iota
	sedDelete
	sedQuit
	sedQuitSilently
)

func (r *sedRun) run() int {
	for r.at = 0; r.at < len(r.lines); r.at++ {
		r.space = r.lines[r.at]
		end, code := r.apply(r.prog)
		if end == sedGoOn && !r.quiet || end == sedQuit && !r.quiet {
			fmt.Fprintln(r.out, r.space)
		}
		for _, text := range r.append {
			fmt.Fprintln(r.out, text)
		}
		r.append = nil
		if end == sedQuit || end == sedQuitSilently {
			return code
		}
	}
	return 0
}

func (r *sedRun) matches(a *sedAddress) bool {
	switch {
	case a.last:
		return r.at == len(r.lines)-1
	case a.re != nil:
		return a.re.MatchString(r.space)
	}
	return r.at+1 == a.line
}

// selected applies the addresses of one command to the current line.
func (r *sedRun) selected(c *sedCommand) bool {
	hit := true
	switch {
	case c.from != nil && c.to == nil:
		hit = r.matches(c.from)
	case c.to != nil && c.active:
		c.active = !r.matches(c.to) && !(c.to.line > 0 && r.at+1 >= c.to.line)
	case c.to != nil:
		hit = r.matches(c.from)
		c.active = hit && !(c.to.line > 0 && r.at+1 >= c.to.line) && !(c.to.last && r.at == len(r.lines)-1)
	}
	return hit != c.negate
}

func (r *sedRun) apply(prog []*sedCommand) (sedEnd, int) {
	for _, c := range prog {
		if !r.selected(c) {
			continue
		}
		switch c.verb {
		case '{':
			if end, code := r.apply(c.block); end != sedGoOn {
				return end, code
			}
		case 's':
			r.substitute(c)
		case 'y':
			from, to := []rune(c.from1), []rune(c.to1)
			r.space = strings.Map(func(ch rune) rune {
				for i, f := range from {
					if f == ch {
						return to[i]
					}
				}
				return ch
			}, r.space)
		case 'd':
			return sedDelete, 0
		case 'D':
			_, rest, more := strings.Cut(r.space, "\n")
			if !more {
				return sedDelete, 0
			}
			r.space = rest
			return r.apply(r.prog)
		case 'p':
			fmt.Fprintln(r.out, r.space)
		case 'P':
			first, _, _ := strings.Cut(r.space, "\n")
			fmt.Fprintln(r.out, first)
		case '=':
			fmt.Fprintln(r.out, r.at+1)
		case 'a':
			r.append = append(r.append, c.text)
		case 'i':
			fmt.Fprintln(r.out, c.text)
		case 'c':
			if c.to == nil || !c.active {
				fmt.Fprintln(r.out, c.text)
			}
			return sedDelete, 0
		case 'q', 'Q':
			code, _ := strconv.Atoi(c.text) // digits only; empty is 0
			if c.verb == 'Q' {
				return sedQuitSilently, code
			}
			return sedQuit, code
		case 'n':
			if !r.quiet {
				fmt.Fprintln(r.out, r.space)
			}
			if r.at+1 >= len(r.lines) {
				return sedQuitSilently, 0
			}
			r.at++
			r.space = r.lines[r.at]
		case 'N':
			if r.at+1 >= len(r.lines) {
				return sedQuit, 0
			}
			r.at++
			r.space += "\n" + r.lines[r.at]
		case 'g':
			r.space = r.hold
		case 'G':
			r.space += "\n" + r.hold
		case 'h':
			r.hold = r.space
		case 'H':
			r.hold += "\n" + r.space
		case 'x':
			r.space, r.hold = r.hold, r.space
		}
	}
	return sedGoOn, 0
}

func (r *sedRun) substitute(c *sedCommand) {
	var b strings.Builder
	last, n := 0, 0
	for _, m := range c.re.FindAllStringSubmatchIndex(r.space, -1) {
		n++
		if n < c.nth || n > c.nth && !c.global {
			continue
		}
		b.WriteString(r.space[last:m[0]])
		expandReplacement(&b, c.replace, r.space, m)
		last = m[1]
	}
	if n < c.nth || last == 0 && b.Len() == 0 && n == 0 {
		return
	}
	b.WriteString(r.space[last:])
	r.space = b.String()
	if c.print {
		fmt.Fprintln(r.out, r.space)
	}
}

// expandReplacement writes the replacement with & and \1…\9 filled in.
func expandReplacement(b *strings.Builder, text, src string, m []int) {
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '&':
			b.WriteString(src[m[0]:m[1]])
		case text[i] == '\\' && i+1 < len(text):
			i++
			switch ch := text[i]; {
			case ch >= '0' && ch <= '9':
				g := int(ch - '0')
				if 2*g+1 < len(m) && m[2*g] >= 0 {
					b.WriteString(src[m[2*g]:m[2*g+1]])
				}
			case ch == 'n':
				b.WriteByte('\n')
			case ch == 't':
				b.WriteByte('\t')
			default:
				b.WriteByte(ch)
			}
		default:
			b.WriteByte(text[i])
		}
	}
}
