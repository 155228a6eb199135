package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// each calls fn with every named file opened, or with standard input for "-" and for no names at all. A file that
// cannot be opened or read is reported and makes the result 1; the others are still done.
func (c *call) each(names []string, fn func(name string, r io.Reader) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	code := 0
	for _, name := range names {
		if err := c.one(name, fn); err != nil {
			code = c.report(err)
		}
	}
	return code
}

func (c *call) one(name string, fn func(name string, r io.Reader) error) error {
	if name == "-" {
		return fn("-", c.in)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return fn(name, f)
}

// lines calls fn with every line, its newline included where there is one; fn returning false stops.
func lines(r io.Reader, fn func(line string) bool) error {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadString('\n')
		if line != "" && !fn(line) {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readLines reads all lines without their newlines.
func readLines(r io.Reader) ([]string, error) {
	var list []string
	err := lines(r, func(line string) bool {
		list = append(list, strings.TrimSuffix(line, "\n"))
		return true
	})
	return list, err
}

func cat(c *call) int {
	o, err := getopt(c.args, "nuAe", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	n := 0
	return c.each(o.rest, func(_ string, r io.Reader) error {
		if o.has('n') {
			return lines(r, func(line string) bool {
				n++
				fmt.Fprintf(c.out, "%6d\t%s", n, line)
				return true
			})
		}
		// Straight to the file: a terminal or a log must see the bytes as they come.
		if err := c.out.Flush(); err != nil {
			return err
		}
		buf := make([]byte, 64<<10)
		for {
			k, err := r.Read(buf)
			if k > 0 {
				if _, err := c.out.Write(buf[:k]); err != nil {
					return err
				}
				if err := c.out.Flush(); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
}

func echo(c *call) int {
	args, newline, escapes := c.args, true, false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && strings.Trim(args[0][1:], "neE") == "" {
		newline = newline && !strings.Contains(args[0], "n")
		escapes = strings.Contains(args[0], "e")
		args = args[1:]
	}
	text := strings.Join(args, " ")
	if escapes {
		text, _ = unescape(text)
	}
	c.out.WriteString(text)
	if newline {
		c.out.WriteByte('\n')
	}
	return 0
}

// unescape replaces backslash escapes; stop is true after \c.
func unescape(s string) (text string, stop bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if k := strings.IndexByte("abefnrtv\\", s[i]); k >= 0 {
			b.WriteByte("\a\b\x1b\f\n\r\t\v\\"[k])
			continue
		}
		switch {
		case s[i] == 'c':
			return b.String(), true
		case s[i] == 'x':
			n, j := 0, i+1
			for j < len(s) && j < i+3 && strings.IndexByte("0123456789abcdefABCDEF", s[j]) >= 0 {
				v, _ := strconv.ParseUint(s[j:j+1], 16, 8) // the digit was checked
				n, j = n<<4|int(v), j+1
			}
			b.WriteByte(byte(n))
			i = j - 1
		case s[i] >= '0' && s[i] <= '7':
			n, j := 0, i
			for j < len(s) && j < i+4 && s[j] >= '0' && s[j] <= '7' {
				n, j = n<<3|int(s[j]-'0'), j+1
			}
			b.WriteByte(byte(n))
			i = j - 1
		default:
			b.WriteByte('\\')
			b.WriteByte(s[i])
		}
	}
	return b.String(), false
}

// printfCommand is printf(1): the format is used again while arguments are left.
func printfCommand(c *call) int {
	if len(c.args) == 0 {
		return c.usage("usage: printf FORMAT [ARGUMENT...]")
	}
	format, args, code := c.args[0], c.args[1:], 0
	for {
		used := 0
		next := func() string {
			used++
			if used <= len(args) {
				return args[used-1]
			}
			return ""
		}
		for i := 0; i < len(format); {
			if format[i] == '\\' {
				end := i + 2
				for end < len(format) && end < i+4 && strings.IndexByte("0123456789abcdefABCDEF", format[end]) >= 0 &&
					(format[i+1] == 'x' || format[i+1] >= '0' && format[i+1] <= '7' && format[end] <= '7') {
					end++
				}
				text, stop := unescape(format[i:min(end, len(format))])
				c.out.WriteString(text)
				if stop {
					return code
				}
				i = end
				continue
			}
			if format[i] != '%' {
				c.out.WriteByte(format[i])
				i++
				continue
			}
			if i+1 < len(format) && format[i+1] == '%' {
				c.out.WriteByte('%')
				i += 2
				continue
			}
			j := i + 1
			spec := "%"
			for j < len(format) && strings.IndexByte("-+ #0123456789.*", format[j]) >= 0 {
				if format[j] == '*' {
					spec += next()
				} else {
					spec += string(format[j])
				}
				j++
			}
			if j == len(format) {
				return c.fail("%s: missing conversion", format[i:])
			}
			if !c.convert(spec, format[j], next()) {
				code = 1
			}
			i = j + 1
		}
		if used == 0 || used >= len(args) {
			return code
		}
		args = args[used:]
	}
}

// convert prints one argument by one conversion and reports whether the argument was a proper one for it.
func (c *call) convert(spec string, verb byte, arg string) bool {
	switch verb {
	case 's':
		fmt.Fprintf(c.out, spec+"s", arg)
	case 'b':
		text, _ := unescape(arg)
		fmt.Fprintf(c.out, spec+"s", text)
	case 'q':
		fmt.Fprintf(c.out, spec+"s", quoted([]string{arg}))
	case 'c':
		fmt.Fprintf(c.out, spec+"s", arg[:min(1, len(arg))])
	case 'd', 'i', 'u', 'o', 'x', 'X':
		var n int64
		var err error
		if len(arg) > 1 && (arg[0] == '\'' || arg[0] == '"') {
			n = int64(arg[1])
		} else if arg != "" {
			n, err = strconv.ParseInt(arg, 0, 64)
		}
		if verb == 'i' || verb == 'u' {
			verb = 'd'
		}
		fmt.Fprintf(c.out, spec+string(verb), n)
		if err != nil {
			c.fail("%s: not a number", arg)
			return false
		}
	case 'e', 'f', 'g', 'E', 'F', 'G':
		n, err := strconv.ParseFloat(arg, 64)
		fmt.Fprintf(c.out, spec+string(verb), n)
		if err != nil && arg != "" {
			c.fail("%s: not a number", arg)
			return false
		}
	default:
		c.fail("%%%c: no such conversion", verb)
		return false
	}
	return true
}

// oldCount turns "-20" into "-n 20", as head and tail allow.
func oldCount(args []string) []string {
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && number(args[0][1:]) >= 0 {
		return append([]string{"-n", args[0][1:]}, args[1:]...)
	}
	return args
}

// size reads a byte count with a unit: 10, 4k, 2M, 1G.
func size(s string) (int64, error) {
	unit := int64(1)
	t := strings.TrimSuffix(strings.TrimSuffix(s, "B"), "i")
	if t == "" {
		return 0, fmt.Errorf("invalid number %q", s)
	}
	switch t[len(t)-1] {
	case 'b':
		unit = 512
	case 'k', 'K':
		unit = 1 << 10
	case 'm', 'M':
		unit = 1 << 20
	case 'g', 'G':
		unit = 1 << 30
	}
	if unit > 1 {
		t = t[:len(t)-1]
	}
	n, err := strconv.ParseInt(t, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("invalid number %q", s)
	}
	return n * unit, nil
}

func head(c *call) int {
	o, err := getopt(oldCount(c.args), "n:c:qv", map[string]byte{"lines": 'n', "bytes": 'c', "quiet": 'q'})
	if err != nil {
		return c.usage("%v", err)
	}
	letter := byte('n')
	if o.has('c') {
		letter = 'c'
	}
	count, err := size(o.last(letter, "10"))
	if err != nil {
		return c.usage("%v", err)
	}
	first := true
	return c.each(o.rest, func(name string, r io.Reader) error {
		c.heading(o, name, &first)
		if o.has('c') {
			_, err := io.CopyN(c.out, r, count)
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		left := count
		if left == 0 {
			return nil
		}
		return lines(r, func(line string) bool {
			c.out.WriteString(line)
			left--
			return left > 0
		})
	})
}

// heading prints "==> name <==" where head and tail show several files.
func (c *call) heading(o *options, name string, first *bool) {
	if len(o.rest) < 2 && !o.has('v') || o.has('q') {
		return
	}
	if !*first {
		c.out.WriteByte('\n')
	}
	*first = false
	fmt.Fprintf(c.out, "==> %s <==\n", name)
}

func tail(c *call) int {
	o, err := getopt(oldCount(c.args), "n:c:qvfF", map[string]byte{"lines": 'n', "bytes": 'c', "follow": 'f'})
	if err != nil {
		return c.usage("%v", err)
	}
	letter := byte('n')
	if o.has('c') {
		letter = 'c'
	}
	value := o.last(letter, "10")
	fromStart := strings.HasPrefix(value, "+")
	count, err := size(strings.TrimLeft(value, "+-"))
	if err != nil {
		return c.usage("%v", err)
	}
	first := true
	follow := o.has('f') || o.has('F')
	return c.each(o.rest, func(name string, r io.Reader) error {
		c.heading(o, name, &first)
		var err error
		switch {
		case letter == 'c':
			err = tailBytes(c.out, r, count, fromStart)
		case fromStart:
			skip := count - 1
			err = lines(r, func(line string) bool {
				if skip > 0 {
					skip--
				} else {
					c.out.WriteString(line)
				}
				return true
			})
		default:
			err = tailLines(c.out, r, int(count))
		}
		if err != nil || !follow {
			return err
		}
		// A file has no event for "grew" that works on every file system a container may see, so it is looked at.
		for {
			if _, err := io.Copy(c.out, r); err != nil {
				return err
			}
			if err := c.out.Flush(); err != nil {
				return err
			}
			time.Sleep(250 * time.Millisecond)
		}
	})
}

func tailLines(w io.Writer, r io.Reader, count int) error {
	var ring []string
	err := lines(r, func(line string) bool {
		ring = append(ring, line)
		if len(ring) > 2*count+1024 {
			ring = append(ring[:0], ring[len(ring)-count:]...)
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, line := range ring[max(0, len(ring)-count):] {
		if _, err := io.WriteString(w, line); err != nil {
			return err
		}
	}
	return nil
}

func tailBytes(w io.Writer, r io.Reader, count int64, fromStart bool) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	start := max(0, int64(len(data))-count)
	if fromStart {
		start = min(max(0, count-1), int64(len(data)))
	}
	_, err = w.Write(data[start:])
	return err
}

func wc(c *call) int {
	o, err := getopt(c.args, "lwcm", map[string]byte{"lines": 'l', "words": 'w', "bytes": 'c', "chars": 'm'})
	if err != nil {
		return c.usage("%v", err)
	}
	all := !o.has('l') && !o.has('w') && !o.has('c') && !o.has('m')
	var total [4]int
	show := func(n [4]int, name string) {
		var cols []string
		for i, letter := range []byte("lwmc") {
			if o.has(letter) || all && letter != 'm' {
				cols = append(cols, strconv.Itoa(n[i]))
			}
		}
		if name != "-" {
			cols = append(cols, name)
		}
		fmt.Fprintln(c.out, strings.Join(cols, " "))
	}
	code := c.each(o.rest, func(name string, r io.Reader) error {
		var n [4]int
		err := lines(r, func(line string) bool {
			if strings.HasSuffix(line, "\n") {
				n[0]++
			}
			n[1] += len(strings.Fields(line))
			n[2] += len([]rune(line))
			n[3] += len(line)
			return true
		})
		for i := range n {
			total[i] += n[i]
		}
		show(n, name)
		return err
	})
	if len(o.rest) > 1 {
		show(total, "total")
	}
	return code
}

// ranges parses cut's lists: "1,3-5,7-".
func ranges(list string) (func(n int) bool, error) {
	type span struct{ from, to int }
	var spans []span
	for part := range strings.SplitSeq(list, ",") {
		from, to, dash := strings.Cut(part, "-")
		s := span{1, 1 << 30}
		if from != "" {
			s.from = number(from)
		}
		if !dash {
			s.to = s.from
		} else if to != "" {
			s.to = number(to)
		}
		if part == "" || part == "-" || s.from < 1 || s.to < s.from {
			return nil, fmt.Errorf("invalid list %q", list)
		}
		spans = append(spans, s)
	}
	return func(n int) bool {
		for _, s := range spans {
			if n >= s.from && n <= s.to {
				return true
			}
		}
		return false
	}, nil
}

func cut(c *call) int {
	o, err := getopt(c.args, "f:d:c:b:s", map[string]byte{"fields": 'f', "delimiter": 'd', "characters": 'c',
		"bytes": 'b', "only-delimited": 's'})
	if err != nil {
		return c.usage("%v", err)
	}
	list := o.last('f', o.last('c', o.last('b', "")))
	if list == "" {
		return c.usage("a list of bytes, characters or fields is needed")
	}
	want, err := ranges(list)
	if err != nil {
		return c.usage("%v", err)
	}
	delim := o.last('d', "\t")
	return c.each(o.rest, func(_ string, r io.Reader) error {
		return lines(r, func(line string) bool {
			line = strings.TrimSuffix(line, "\n")
			var kept []string
			switch {
			case o.has('f'):
				if !strings.Contains(line, delim) {
					if !o.has('s') {
						fmt.Fprintln(c.out, line)
					}
					return true
				}
				for i, field := range strings.Split(line, delim) {
					if want(i + 1) {
						kept = append(kept, field)
					}
				}
				fmt.Fprintln(c.out, strings.Join(kept, delim))
			case o.has('c'):
				for i, ch := range []rune(line) {
					if want(i + 1) {
						kept = append(kept, string(ch))
					}
				}
				fmt.Fprintln(c.out, strings.Join(kept, ""))
			default:
				for i := range len(line) {
					if want(i + 1) {
						kept = append(kept, line[i:i+1])
					}
				}
				fmt.Fprintln(c.out, strings.Join(kept, ""))
			}
			return true
		})
	})
}

func uniq(c *call) int {
	o, err := getopt(c.args, "cdui", map[string]byte{"count": 'c', "repeated": 'd', "unique": 'u', "ignore-case": 'i'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) > 1 {
		return c.usage("extra operand %q", o.rest[1])
	}
	prev, n := "", 0
	flush := func() {
		if n == 0 || o.has('d') && n == 1 || o.has('u') && n > 1 {
			return
		}
		if o.has('c') {
			fmt.Fprintf(c.out, "%7d ", n)
		}
		fmt.Fprintln(c.out, prev)
	}
	code := c.each(o.rest, func(_ string, r io.Reader) error {
		return lines(r, func(line string) bool {
			line = strings.TrimSuffix(line, "\n")
			if n > 0 && (line == prev || o.has('i') && strings.EqualFold(line, prev)) {
				n++
				return true
			}
			flush()
			prev, n = line, 1
			return true
		})
	})
	flush()
	return code
}

// set expands tr's notation: a-z, [:class:], escapes.
func charset(s string) []rune {
	s = strings.NewReplacer("[:lower:]", "a-z", "[:upper:]", "A-Z", "[:digit:]", "0-9", "[:alpha:]", "A-Za-z",
		"[:alnum:]", "A-Za-z0-9", "[:space:]", " \\t\\n\\r\\f\\v", "[:blank:]", " \\t", "[:punct:]",
		"!-/:-@[-`{-~", "[:cntrl:]", "\x01-\x1f\x7f", "[:print:]", " -~").Replace(s)
	text, _ := unescape(s)
	in := []rune(text)
	var out []rune
	for i := 0; i < len(in); i++ {
		if i+2 < len(in) && in[i+1] == '-' && in[i+2] >= in[i] {
			for ch := in[i]; ch <= in[i+2]; ch++ {
				out = append(out, ch)
			}
			i += 2
			continue
		}
		out = append(out, in[i])
	}
	return out
}

func tr(c *call) int {
	o, err := getopt(c.args, "+cCdst", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) == 0 || len(o.rest) == 1 && !o.has('d') && !o.has('s') {
		return c.usage("usage: tr [-cds] SET1 [SET2]")
	}
	from := charset(o.rest[0])
	var to []rune
	if len(o.rest) > 1 {
		to = charset(o.rest[1])
	}
	index := map[rune]int{}
	for i, ch := range from {
		if _, ok := index[ch]; !ok {
			index[ch] = i
		}
	}
	complement := o.has('c') || o.has('C')
	in := func(ch rune) (int, bool) {
		i, ok := index[ch]
		if complement {
			return len(to) - 1, !ok
		}
		return i, ok
	}
	squeeze := map[rune]bool{}
	for _, ch := range to {
		squeeze[ch] = true
	}
	var last rune = -1
	br := bufio.NewReader(c.in)
	for {
		ch, _, err := br.ReadRune()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return 0
			}
			return c.report(err)
		}
		i, hit := in(ch)
		switch {
		case hit && o.has('d'):
			continue
		case hit && len(to) > 0:
			ch = to[min(i, len(to)-1)]
		}
		if o.has('s') && ch == last {
			if len(to) > 0 && squeeze[ch] || len(to) == 0 && hit {
				continue
			}
		}
		last = ch
		c.out.WriteRune(ch)
	}
}

func tee(c *call) int {
	o, err := getopt(c.args, "ai", map[string]byte{"append": 'a'})
	if err != nil {
		return c.usage("%v", err)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if o.has('a') {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	writers := []io.Writer{flushing{c.out}}
	code := 0
	for _, name := range o.rest {
		f, err := os.OpenFile(name, flags, 0o666)
		if err != nil {
			code = c.report(err)
			continue
		}
		defer f.Close()
		writers = append(writers, f)
	}
	if _, err := io.Copy(io.MultiWriter(writers...), c.in); err != nil {
		return c.report(err)
	}
	return code
}

// flushing passes every write on at once.
type flushing struct{ w *bufio.Writer }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.w.Flush()
	}
	return n, err
}

func seq(c *call) int {
	args, sep := c.args, "\n"
	for len(args) > 1 && (args[0] == "-s" || args[0] == "-w") {
		if args[0] == "-w" {
			return c.usage("-w is not supported")
		}
		sep, args = args[1], args[2:]
	}
	values := [3]float64{1, 1, 1} // first, step, last
	places := 0
	if len(args) < 1 || len(args) > 3 {
		return c.usage("usage: seq [-s SEPARATOR] [FIRST [STEP]] LAST")
	}
	at := map[int][]int{1: {2}, 2: {0, 2}, 3: {0, 1, 2}}[len(args)]
	for i, a := range args {
		v, err := strconv.ParseFloat(a, 64)
		if err != nil {
			return c.usage("%q is not a number", a)
		}
		if _, frac, ok := strings.Cut(a, "."); ok && at[i] != 2 {
			places = max(places, len(frac))
		}
		values[at[i]] = v
	}
	first, step, last := values[0], values[1], values[2]
	if step == 0 {
		return c.usage("the step must not be zero")
	}
	for i := 0; ; i++ {
		v := first + float64(i)*step
		if step > 0 && v > last+1e-9 || step < 0 && v < last-1e-9 {
			if i > 0 {
				c.out.WriteByte('\n')
			}
			return 0
		}
		if i > 0 {
			if _, err := c.out.WriteString(sep); err != nil {
				return 1
			}
		}
		c.out.WriteString(strconv.FormatFloat(v, 'f', places, 64))
	}
}

func yes(c *call) int {
	text := "y"
	if len(c.args) > 0 {
		text = strings.Join(c.args, " ")
	}
	for {
		if _, err := c.out.WriteString(text + "\n"); err != nil {
			return 1
		}
	}
}
