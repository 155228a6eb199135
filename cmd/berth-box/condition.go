package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// bracket is test and [: 0 true, 1 false, 2 a wrong expression.
func bracket(c *call) int {
	args := c.args
	if c.name == "[" {
		if len(args) == 0 || args[len(args)-1] != "]" {
			return c.usage("missing ]")
		}
		args = args[:len(args)-1]
	}
	e := &testExpr{args: args}
	if len(args) == 0 {
		return 1
	}
	ok, err := e.or()
	if err == nil && len(e.args) > 0 {
		err = fmt.Errorf("unexpected %q", e.args[0])
	}
	switch {
	case err != nil:
		return c.usage("%v", err)
	case ok:
		return 0
	}
	return 1
}

// testExpr reads POSIX's test expression from left to right.
type testExpr struct{ args []string }

func (e *testExpr) next() string {
	a := e.args[0]
	e.args = e.args[1:]
	return a
}

func (e *testExpr) or() (bool, error) {
	ok, err := e.and()
	for err == nil && len(e.args) > 0 && e.args[0] == "-o" {
		e.next()
		var right bool
		right, err = e.and()
		ok = ok || right
	}
	return ok, err
}

func (e *testExpr) and() (bool, error) {
	ok, err := e.primary()
	for err == nil && len(e.args) > 0 && e.args[0] == "-a" {
		e.next()
		var right bool
		right, err = e.primary()
		ok = ok && right
	}
	return ok, err
}

func (e *testExpr) primary() (bool, error) {
	if len(e.args) == 0 {
		return false, errors.New("argument expected")
	}
	binary := []string{"=", "==", "!=", "<", ">", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef"}
	if len(e.args) >= 3 && slices.Contains(binary, e.args[1]) {
		left, op, right := e.next(), e.next(), e.next()
		return compareWords(left, op, right)
	}
	switch a := e.next(); {
	case a == "!" && len(e.args) > 0:
		ok, err := e.primary()
		return !ok, err
	case a == "(" && len(e.args) > 0:
		ok, err := e.or()
		if err == nil && (len(e.args) == 0 || e.next() != ")") {
			err = errors.New("missing )")
		}
		return ok, err
	case len(a) == 2 && a[0] == '-' && strings.IndexByte("nzedfrwxsLhpSbcugkt", a[1]) >= 0 && len(e.args) > 0:
		return fileTest(a[1], e.next()), nil
	default:
		return a != "", nil
	}
}

func compareWords(left, op, right string) (bool, error) {
	switch op {
	case "=", "==":
		return left == right, nil
	case "!=":
		return left != right, nil
	case "<":
		return left < right, nil
	case ">":
		return left > right, nil
	case "-nt", "-ot", "-ef":
		var a, b unix.Stat_t
		errA, errB := unix.Stat(left, &a), unix.Stat(right, &b)
		if errA != nil || errB != nil {
			return op == "-nt" && errA == nil || op == "-ot" && errB == nil, nil
		}
		x, y := a.Mtim.Nano(), b.Mtim.Nano()
		return op == "-nt" && x > y || op == "-ot" && x < y || op == "-ef" && a.Dev == b.Dev && a.Ino == b.Ino, nil
	}
	x, err := strconv.ParseInt(strings.TrimSpace(left), 10, 64)
	if err != nil {
		return false, fmt.Errorf("%s: integer expected", left)
	}
	y, err := strconv.ParseInt(strings.TrimSpace(right), 10, 64)
	if err != nil {
		return false, fmt.Errorf("%s: integer expected", right)
	}
	switch op {
	case "-eq":
		return x == y, nil
	case "-ne":
		return x != y, nil
	case "-lt":
		return x < y, nil
	case "-le":
		return x <= y, nil
	case "-gt":
		return x > y, nil
	}
	return x >= y, nil
}

func fileTest(op byte, arg string) bool {
	switch op {
	case 'n':
		return arg != ""
	case 'z':
		return arg == ""
	case 't':
		return number(arg) >= 0 && term.IsTerminal(number(arg))
	case 'r', 'w', 'x':
		mode := map[byte]uint32{'r': unix.R_OK, 'w': unix.W_OK, 'x': unix.X_OK}[op]
		return unix.Faccessat(unix.AT_FDCWD, arg, mode, unix.AT_EACCESS) == nil
	case 'L', 'h':
		fi, err := os.Lstat(arg)
		return err == nil && fi.Mode()&os.ModeSymlink != 0
	}
	var st unix.Stat_t
	if unix.Stat(arg, &st) != nil {
		return false
	}
	kind := st.Mode & unix.S_IFMT
	switch op {
	case 'd':
		return kind == unix.S_IFDIR
	case 'f':
		return kind == unix.S_IFREG
	case 's':
		return st.Size > 0
	case 'p':
		return kind == unix.S_IFIFO
	case 'S':
		return kind == unix.S_IFSOCK
	case 'b':
		return kind == unix.S_IFBLK
	case 'c':
		return kind == unix.S_IFCHR
	case 'u':
		return st.Mode&unix.S_ISUID != 0
	case 'g':
		return st.Mode&unix.S_ISGID != 0
	case 'k':
		return st.Mode&unix.S_ISVTX != 0
	}
	return true // -e
}

// expr knows + - * / % = != < <= > >= & | and : with parentheses. Exit code 1 when the result is empty or 0.
func expr(c *call) int {
	p := &exprParser{args: c.args}
	v, err := p.level(0)
	if err == nil && len(p.args) > 0 {
		err = fmt.Errorf("unexpected %q", p.args[0])
	}
	if err != nil {
		return c.usage("%v", err)
	}
	fmt.Fprintln(c.out, v)
	if v == "" || v == "0" {
		return 1
	}
	return 0
}

type exprParser struct{ args []string }

func exprLevels() [][]string {
	return [][]string{{"|"}, {"&"}, {"=", "!=", "<", "<=", ">", ">="}, {"+", "-"}, {"*", "/", "%"}, {":"}}
}

func (p *exprParser) level(n int) (string, error) {
	levels := exprLevels()
	if n == len(levels) {
		if len(p.args) == 0 {
			return "", errors.New("syntax error: missing argument")
		}
		a := p.args[0]
		p.args = p.args[1:]
		if a != "(" {
			return a, nil
		}
		v, err := p.level(0)
		if err == nil && (len(p.args) == 0 || p.args[0] != ")") {
			return "", errors.New("syntax error: missing )")
		}
		if err == nil {
			p.args = p.args[1:]
		}
		return v, err
	}
	left, err := p.level(n + 1)
	for err == nil && len(p.args) > 0 && slices.Contains(levels[n], p.args[0]) {
		op := p.args[0]
		p.args = p.args[1:]
		var right string
		if right, err = p.level(n + 1); err == nil {
			left, err = exprApply(left, op, right)
		}
	}
	return left, err
}

func exprApply(left, op, right string) (string, error) {
	truth := func(b bool) (string, error) {
		if b {
			return "1", nil
		}
		return "0", nil
	}
	zero := func(s string) bool { return s == "" || s == "0" }
	x, errX := strconv.ParseInt(left, 10, 64)
	y, errY := strconv.ParseInt(right, 10, 64)
	numbers := errX == nil && errY == nil
	switch op {
	case "|":
		if !zero(left) {
			return left, nil
		}
		return right, nil
	case "&":
		if zero(left) || zero(right) {
			return "0", nil
		}
		return left, nil
	case ":":
		re, err := posixRegexp("^"+strings.TrimPrefix(right, "^"), false, false)
		if err != nil {
			return "", err
		}
		m := re.FindStringSubmatch(left)
		switch {
		case re.NumSubexp() > 0 && m != nil:
			return m[1], nil
		case re.NumSubexp() > 0:
			return "", nil
		case m == nil:
			return "0", nil
		}
		return strconv.Itoa(len([]rune(m[0]))), nil
	case "=", "!=", "<", "<=", ">", ">=":
		d := strings.Compare(left, right)
		if numbers {
			d = 0
			if x < y {
				d = -1
			} else if x > y {
				d = 1
			}
		}
		return truth(op == "=" && d == 0 || op == "!=" && d != 0 || op == "<" && d < 0 || op == "<=" && d <= 0 ||
			op == ">" && d > 0 || op == ">=" && d >= 0)
	}
	if !numbers {
		return "", errors.New("non-integer argument")
	}
	switch op {
	case "+":
		return strconv.FormatInt(x+y, 10), nil
	case "-":
		return strconv.FormatInt(x-y, 10), nil
	case "*":
		return strconv.FormatInt(x*y, 10), nil
	}
	if y == 0 {
		return "", errors.New("division by zero")
	}
	if op == "/" {
		return strconv.FormatInt(x/y, 10), nil
	}
	return strconv.FormatInt(x%y, 10), nil
}
