package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/syntax"
)

// interactive reads commands with a prompt until `exit` or the end of input.
func (s *sh) interactive() int {
	// Ctrl-C reaches every process of the foreground group, the shell among them: it must survive what stops its child.
	// Caught and dropped, not ignored: an ignored signal would be inherited by the children.
	if os.Getpid() != 1 {
		drop := make(chan os.Signal, 1)
		signal.Notify(drop, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
		defer signal.Stop(drop)
		go func() {
			for range drop {
			}
		}()
	}
	s.traps.deafToInterrupt()
	in := newLineReader(s)
	parser := syntax.NewParser()
	last := 0
	for !in.eof {
		in.prompt = s.prompt()
		in.fresh = true
		for stmts, err := range parser.InteractiveSeq(in) {
			if err != nil {
				if !in.interrupted {
					fmt.Fprintf(os.Stderr, "sh: %v\n", err)
					last = 2
				}
				break
			}
			if parser.Incomplete() {
				in.prompt = "> "
				continue
			}
			if len(stmts) > 0 {
				prog := &syntax.File{Stmts: numberJobs(slices.Clone(stmts))}
				for _, st := range prog.Stmts {
					last = s.status(s.runner.Run(context.Background(), st))
					if s.runner.Exited() {
						return last
					}
				}
			}
			in.prompt = s.prompt()
		}
	}
	return last
}

// prompt shows where we are: "host:/dir # ".
func (s *sh) prompt() string {
	dir := s.runner.Dir
	if dir == "" {
		dir, _ = os.Getwd() // unknown is shown as nothing
	}
	host, err := os.Hostname()
	if err != nil {
		host = "box"
	}
	mark := "$"
	if os.Geteuid() == 0 {
		mark = "#"
	}
	return fmt.Sprintf("%s:%s %s ", host, dir, mark)
}

// lineReader gives the parser one line at a time, from the line editor when input is a terminal.
type lineReader struct {
	editor      *term.Terminal // nil when input is no terminal
	raw         *byteReader
	prompt      string
	left        []byte
	fresh       bool // a new command begins: an interrupt starts over
	interrupted bool
	eof         bool
}

func newLineReader(s *sh) *lineReader {
	r := &lineReader{raw: &byteReader{f: os.Stdin}}
	if term.IsTerminal(0) {
		r.editor = term.NewTerminal(struct {
			io.Reader
			io.Writer
		}{r.raw, os.Stdout}, "")
		r.editor.AutoCompleteCallback = s.complete
	}
	return r
}

// errInterrupted makes the parser give up the half-typed command after Ctrl-C.
var errInterrupted = errors.New("interrupted")

func (r *lineReader) Read(p []byte) (int, error) {
	if r.eof {
		return 0, io.EOF
	}
	r.interrupted = false
	for len(r.left) == 0 {
		line, err := r.line()
		if r.raw.interrupted {
			r.raw.interrupted = false
			r.interrupted = true
			return 0, errInterrupted
		}
		if err != nil {
			r.eof = true
			return 0, err
		}
		r.left = append([]byte(line), '\n')
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// line reads one line. The terminal is raw only while it is being edited, so commands see it as it was.
func (r *lineReader) line() (string, error) {
	if r.editor == nil {
		fmt.Fprint(os.Stdout, r.prompt)
		return r.raw.line()
	}
	old, err := term.MakeRaw(0)
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(0, old) }() // a terminal that is gone cannot be restored
	if w, h, err := term.GetSize(0); err == nil && w > 0 {
		_ = r.editor.SetSize(w, h) // only redraws
	}
	r.editor.SetPrompt(r.prompt)
	return r.editor.ReadLine()
}

// byteReader reads one byte at a time, so that input typed ahead stays for the command it is meant for, and turns
// Ctrl-C into "drop this line".
type byteReader struct {
	f           *os.File
	interrupted bool
}

func (b *byteReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := b.f.Read(p[:1])
	if n == 1 && p[0] == 3 {
		b.interrupted = true
		p[0] = '\r'
		fmt.Fprint(os.Stdout, "^C")
	}
	return n, err
}

func (b *byteReader) line() (string, error) {
	var line []byte
	var one [1]byte
	for {
		n, err := b.f.Read(one[:])
		if n == 1 {
			if one[0] == '\n' {
				return string(line), nil
			}
			line = append(line, one[0])
			continue
		}
		if err != nil {
			if len(line) > 0 && errors.Is(err, io.EOF) {
				return string(line), nil
			}
			return "", err
		}
	}
}

// complete extends the word before the cursor by what all candidates share: commands for a first word, else files.
func (s *sh) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' {
		return "", 0, false
	}
	start := strings.LastIndexAny(line[:pos], " \t;|&<>=") + 1
	word := line[start:pos]
	var found []string
	if strings.TrimSpace(line[:start]) == "" && !strings.Contains(word, "/") {
		for _, n := range names() {
			if strings.HasPrefix(n, word) {
				found = append(found, n+" ")
			}
		}
	} else {
		full := word
		if !filepath.IsAbs(full) {
			full = s.runner.Dir + "/" + full
		}
		matches, err := filepath.Glob(strings.NewReplacer("*", "\\*", "?", "\\?", "[", "\\[").Replace(full) + "*")
		if err != nil {
			return "", 0, false
		}
		for _, m := range matches {
			end := " "
			if fi, err := os.Stat(m); err == nil && fi.IsDir() {
				end = "/"
			}
			found = append(found, word+strings.TrimPrefix(m, full)+end)
		}
	}
	if len(found) == 0 {
		return "", 0, false
	}
	common := found[0]
	for _, f := range found[1:] {
		for !strings.HasPrefix(f, common) {
			common = common[:len(common)-1]
		}
	}
	if len(common) <= len(word) {
		return "", 0, false
	}
	return line[:start] + common + line[pos:], start + len(common), true
}
