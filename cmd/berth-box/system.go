package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func pwd(c *call) int {
	dir, err := os.Getwd()
	if err != nil {
		return c.report(err)
	}
	fmt.Fprintln(c.out, dir)
	return 0
}

func clearScreen(c *call) int {
	c.out.WriteString("\x1b[H\x1b[2J\x1b[3J")
	return 0
}

func sleep(c *call) int {
	var total time.Duration
	for _, a := range c.args {
		d, err := seconds(a)
		if err != nil {
			return c.usage("invalid time interval %q", a)
		}
		total += d
	}
	if len(c.args) == 0 {
		return c.usage("usage: sleep SECONDS[smhd]...")
	}
	time.Sleep(total)
	return 0
}

// seconds reads 1, 0.5, 2m, inf.
func seconds(s string) (time.Duration, error) {
	if s == "inf" || s == "infinity" {
		return 1<<63 - 1, nil
	}
	unit := time.Second
	if s != "" {
		if u, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour,
			'd': 24 * time.Hour}[s[len(s)-1]]; ok {
			unit, s = u, s[:len(s)-1]
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v < 0 {
		return 0, errors.New("not a time")
	}
	if v*float64(unit) >= float64(1<<63-1) {
		return 1<<63 - 1, nil
	}
	return time.Duration(v * float64(unit)), nil
}

// env replaces itself by the command; without one it prints the environment.
func env(c *call) int {
	o, err := getopt(c.args, "+iu:C:", map[string]byte{"ignore-environment": 'i', "unset": 'u', "chdir": 'C'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) > 0 && o.rest[0] == "-" {
		o.count['i']++
		o.rest = o.rest[1:]
	}
	if o.has('i') {
		os.Clearenv()
	}
	for _, name := range o.value['u'] {
		os.Unsetenv(name)
	}
	for len(o.rest) > 0 && strings.Contains(o.rest[0], "=") {
		name, value, _ := strings.Cut(o.rest[0], "=")
		if err := os.Setenv(name, value); err != nil {
			return c.usage("%s: %v", o.rest[0], err)
		}
		o.rest = o.rest[1:]
	}
	if dir := o.last('C', ""); dir != "" {
		if err := os.Chdir(dir); err != nil {
			return c.report(err)
		}
	}
	if len(o.rest) == 0 {
		for _, line := range os.Environ() {
			fmt.Fprintln(c.out, line)
		}
		return 0
	}
	return c.become(o.rest)
}

// become replaces this process by a command: 127 when it is not found, 126 when it cannot be executed.
func (c *call) become(args []string) int {
	if _, ok := os.LookupEnv("PATH"); !ok { // as execvp(3) does
		if err := os.Setenv("PATH", "/bin:/usr/bin"); err != nil {
			return c.report(err)
		}
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		code := 127
		if errors.Is(err, os.ErrPermission) {
			code = 126
		}
		c.fail("%s: %v", args[0], errors.Unwrap(err))
		return code
	}
	c.out.Flush()
	signal.Reset()
	err = syscall.Exec(path, args, os.Environ())
	c.fail("%s: %v", args[0], err)
	if errors.Is(err, unix.ENOENT) {
		return 127
	}
	return 126
}

func printenv(c *call) int {
	if len(c.args) == 0 {
		return env(c)
	}
	code := 0
	for _, name := range c.args {
		v, ok := os.LookupEnv(name)
		if !ok {
			code = 1
			continue
		}
		fmt.Fprintln(c.out, v)
	}
	return code
}

func which(c *call) int {
	code := 0
	for _, name := range c.args {
		if name == "-a" {
			continue
		}
		path, err := exec.LookPath(name)
		if err != nil {
			code = 1
			continue
		}
		fmt.Fprintln(c.out, path)
	}
	return code
}

func whoami(c *call) int {
	fmt.Fprintln(c.out, userName(uint32(os.Geteuid())))
	return 0
}

func id(c *call) int {
	o, err := getopt(c.args, "ugGnr", map[string]byte{"user": 'u', "group": 'g', "groups": 'G', "name": 'n'})
	if err != nil {
		return c.usage("%v", err)
	}
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	groups, err := os.Getgroups()
	if err != nil {
		return c.report(err)
	}
	if len(o.rest) > 0 {
		u, err := user.Lookup(o.rest[0])
		if err != nil {
			return c.fail("%s: no such user", o.rest[0])
		}
		uid, gid = uint32(number(u.Uid)), uint32(number(u.Gid))
		groups = nil
		list, err := u.GroupIds()
		if err != nil {
			return c.report(err)
		}
		for _, g := range list {
			groups = append(groups, number(g))
		}
	}
	if !slices.Contains(groups, int(gid)) {
		groups = append([]int{int(gid)}, groups...)
	}
	show := func(n uint32, name func(uint32) string) string {
		if o.has('n') {
			return name(n)
		}
		return strconv.FormatUint(uint64(n), 10)
	}
	both := func(n uint32, name func(uint32) string) string {
		s := strconv.FormatUint(uint64(n), 10)
		if t := name(n); t != s {
			s += "(" + t + ")"
		}
		return s
	}
	switch {
	case o.has('u'):
		fmt.Fprintln(c.out, show(uid, userName))
	case o.has('g'):
		fmt.Fprintln(c.out, show(gid, groupName))
	case o.has('G'):
		var list []string
		for _, g := range groups {
			list = append(list, show(uint32(g), groupName))
		}
		fmt.Fprintln(c.out, strings.Join(list, " "))
	default:
		var list []string
		for _, g := range groups {
			list = append(list, both(uint32(g), groupName))
		}
		fmt.Fprintf(c.out, "uid=%s gid=%s groups=%s\n", both(uid, userName), both(gid, groupName), strings.Join(list, ","))
	}
	return 0
}

func hostname(c *call) int {
	o, err := getopt(c.args, "ifs", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) > 0 {
		return c.report(unix.Sethostname([]byte(o.rest[0])))
	}
	if o.has('i') {
		return hostAddresses(c)
	}
	name, err := os.Hostname()
	if err != nil {
		return c.report(err)
	}
	if o.has('s') {
		name, _, _ = strings.Cut(name, ".")
	}
	fmt.Fprintln(c.out, name)
	return 0
}

func uname(c *call) int {
	o, err := getopt(c.args, "asnrvmpio", map[string]byte{"all": 'a'})
	if err != nil {
		return c.usage("%v", err)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return c.report(err)
	}
	if len(o.count) == 0 {
		o.count['s']++
	}
	var parts []string
	for _, p := range []struct {
		letter byte
		text   string
	}{
		{'s', unix.ByteSliceToString(u.Sysname[:])}, {'n', unix.ByteSliceToString(u.Nodename[:])},
		{'r', unix.ByteSliceToString(u.Release[:])}, {'v', unix.ByteSliceToString(u.Version[:])},
		{'m', unix.ByteSliceToString(u.Machine[:])}, {'o', "GNU/Linux"},
	} {
		if o.has(p.letter) || o.has('a') {
			parts = append(parts, p.text)
		}
	}
	fmt.Fprintln(c.out, strings.Join(parts, " "))
	return 0
}

func nproc(c *call) int {
	fmt.Fprintln(c.out, runtime.NumCPU())
	return 0
}

func uptime(c *call) int {
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return c.report(err)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return c.report(err)
	}
	first, _, _ := strings.Cut(string(data), " ")
	secs, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return c.report(err)
	}
	up := time.Duration(secs) * time.Second
	fmt.Fprintf(c.out, " %s up %s, load average: %s\n", time.Now().Format("15:04:05"), up,
		strings.Join(strings.Fields(string(load))[:3], ", "))
	return 0
}

func free(c *call) int {
	o, err := getopt(c.args, "hmkbg", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return c.report(err)
	}
	m := map[string]uint64{}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 {
			if v, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				m[strings.TrimSuffix(f[0], ":")] = v << 10
			}
		}
	}
	show := func(n uint64) string {
		switch {
		case o.has('h'):
			return human(n)
		case o.has('b'):
			return strconv.FormatUint(n, 10)
		case o.has('m'):
			return strconv.FormatUint(n>>20, 10)
		case o.has('g'):
			return strconv.FormatUint(n>>30, 10)
		}
		return strconv.FormatUint(n>>10, 10)
	}
	cache := m["Buffers"] + m["Cached"] + m["SReclaimable"]
	fmt.Fprintf(c.out, "%-6s %12s %12s %12s %12s %12s %12s\n", "", "total", "used", "free", "shared", "buff/cache", "available")
	fmt.Fprintf(c.out, "%-6s %12s %12s %12s %12s %12s %12s\n", "Mem:", show(m["MemTotal"]),
		show(m["MemTotal"]-m["MemFree"]-cache), show(m["MemFree"]), show(m["Shmem"]), show(cache), show(m["MemAvailable"]))
	fmt.Fprintf(c.out, "%-6s %12s %12s %12s\n", "Swap:", show(m["SwapTotal"]), show(m["SwapTotal"]-m["SwapFree"]),
		show(m["SwapFree"]))
	return 0
}

func syncDisks(*call) int {
	unix.Sync()
	return 0
}

func dmesg(c *call) int {
	const readAll = 3 // SYSLOG_ACTION_READ_ALL, syslog(2)
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(readAll, buf)
	if err != nil {
		return c.fail("read kernel buffer: %v", err)
	}
	c.out.Write(buf[:n])
	return 0
}

func chroot(c *call) int {
	if len(c.args) == 0 {
		return c.usage("usage: chroot DIRECTORY [COMMAND [ARGUMENT...]]")
	}
	if err := unix.Chroot(c.args[0]); err != nil {
		c.fail("%s: %v", c.args[0], err)
		return 125
	}
	if err := os.Chdir("/"); err != nil {
		return c.report(err)
	}
	args := c.args[1:]
	if len(args) == 0 {
		args = []string{"/bin/sh", "-i"}
	}
	return c.become(args)
}

// timeout runs a command and ends it after a while: 124 when it had to.
func timeout(c *call) int {
	o, err := getopt(c.args, "+s:k:", map[string]byte{"signal": 's', "kill-after": 'k'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) < 2 {
		return c.usage("usage: timeout [-s SIGNAL] [-k SECONDS] SECONDS COMMAND...")
	}
	limit, err := seconds(o.rest[0])
	if err != nil {
		return c.usage("invalid time interval %q", o.rest[0])
	}
	after, err := seconds(o.last('k', "inf"))
	if err != nil {
		return c.usage("invalid time interval %q", o.last('k', ""))
	}
	sig := signalNumber(o.last('s', "TERM"))
	if sig == 0 {
		return c.usage("%s: unknown signal", o.last('s', ""))
	}
	cmd := exec.Command(o.rest[1], o.rest[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.in, os.Stdout, c.err
	if err := cmd.Start(); err != nil {
		c.fail("%s: %v", o.rest[1], err)
		return 127
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
		return exitCode(err)
	case <-time.After(limit):
	}
	_ = cmd.Process.Signal(sig) // it may have ended meanwhile
	select {
	case <-done:
	case <-time.After(after):
		_ = cmd.Process.Kill()
		<-done
		return 137
	}
	return 124
}

// exitCode is a shell's view of how a command ended.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return ee.ExitCode()
	}
	return 1
}

func date(c *call) int {
	o, err := getopt(c.args, "ud:RI", map[string]byte{"utc": 'u', "date": 'd', "iso-8601": 'I', "rfc-email": 'R'})
	if err != nil {
		return c.usage("%v", err)
	}
	now := time.Now()
	if d := o.last('d', ""); d != "" {
		if now, err = parseDate(d); err != nil {
			return c.fail("invalid date %q", d)
		}
	}
	if o.has('u') {
		now = now.UTC()
	}
	format := "%a %b %e %H:%M:%S %Z %Y"
	switch {
	case o.has('I'):
		format = "%F"
	case o.has('R'):
		format = "%a, %d %b %Y %H:%M:%S %z"
	}
	if len(o.rest) > 0 {
		if !strings.HasPrefix(o.rest[0], "+") {
			return c.usage("the clock cannot be set; a format begins with +")
		}
		format = o.rest[0][1:]
	}
	fmt.Fprintln(c.out, strftime(format, now))
	return 0
}

func parseDate(s string) (time.Time, error) {
	if at, ok := strings.CutPrefix(s, "@"); ok {
		n, err := strconv.ParseFloat(at, 64)
		return time.Unix(0, int64(n*1e9)), err
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02", time.RFC1123Z} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if s == "now" {
		return time.Now(), nil
	}
	return time.Time{}, errors.New("unknown form")
}

// strftime knows the conversions people use in scripts.
func strftime(format string, t time.Time) string {
	layouts := map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'M': "04",
		'S': "05", 'p': "PM", 'Z': "MST", 'z': "-0700", 'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January",
		'h': "Jan", 'y': "06", 'j': "002", 'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'D': "01/02/06",
		'c': "Mon Jan _2 15:04:05 2006"}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		digits := 9
		if format[i] >= '1' && format[i] <= '9' && i+1 < len(format) && format[i+1] == 'N' {
			digits = int(format[i] - '0')
			i++
		}
		switch ch := format[i]; ch {
		case 's':
			fmt.Fprint(&b, t.Unix())
		case 'N':
			b.WriteString(fmt.Sprintf("%09d", t.Nanosecond())[:digits])
		case 'u':
			fmt.Fprint(&b, (int(t.Weekday())+6)%7+1)
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case '%':
			b.WriteByte('%')
		default:
			if layout, ok := layouts[ch]; ok {
				b.WriteString(t.Format(layout))
			} else {
				b.WriteByte('%')
				b.WriteByte(ch)
			}
		}
	}
	return b.String()
}

func ttyName(c *call) int {
	if !term.IsTerminal(0) {
		fmt.Fprintln(c.out, "not a tty")
		return 1
	}
	name, err := os.Readlink("/proc/self/fd/0")
	if err != nil {
		return c.report(err)
	}
	fmt.Fprintln(c.out, name)
	return 0
}

// stty knows `size`, `-echo`, `echo`, `raw`, `sane`: what scripts ask for.
func stty(c *call) int {
	w, h, err := term.GetSize(0)
	if err != nil {
		return c.fail("standard input: %v", err)
	}
	if len(c.args) == 0 {
		fmt.Fprintf(c.out, "rows %d; columns %d\n", h, w)
		return 0
	}
	t, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return c.report(err)
	}
	for _, a := range c.args {
		switch a {
		case "size":
			fmt.Fprintf(c.out, "%d %d\n", h, w)
		case "-echo":
			t.Lflag &^= unix.ECHO
		case "echo":
			t.Lflag |= unix.ECHO
		case "raw":
			t.Lflag &^= unix.ICANON | unix.ISIG | unix.IEXTEN
			t.Iflag &^= unix.ICRNL | unix.IXON
			t.Oflag &^= unix.OPOST
		case "sane":
			t.Lflag |= unix.ICANON | unix.ISIG | unix.IEXTEN | unix.ECHO | unix.ECHOE | unix.ECHOK
			t.Iflag |= unix.ICRNL | unix.IXON
			t.Oflag |= unix.OPOST | unix.ONLCR
		default:
			return c.usage("%q is not supported", a)
		}
	}
	return c.report(unix.IoctlSetTermios(0, unix.TCSETS, t))
}

// xargs splits on blanks with quotes (or on NUL, or lines) and runs the command with as many as fit.
func xargs(c *call) int {
	o, err := getopt(c.args, "+0n:rtI:L:d:P:", map[string]byte{"null": '0', "max-args": 'n', "no-run-if-empty": 'r',
		"verbose": 't', "replace": 'I', "delimiter": 'd'})
	if err != nil {
		return c.usage("%v", err)
	}
	data, err := io.ReadAll(c.in)
	if err != nil {
		return c.report(err)
	}
	replace := o.last('I', "")
	var words []string
	switch {
	case o.has('0'):
		words = splitOn(string(data), "\x00")
	case o.has('d'):
		delim, _ := unescape(o.last('d', ""))
		words = splitOn(string(data), delim)
	case replace != "" || o.has('L'):
		for _, line := range splitOn(string(data), "\n") {
			if line = strings.TrimSpace(line); line != "" {
				words = append(words, line)
			}
		}
	default:
		if words, err = shellWords(string(data)); err != nil {
			return c.fail("%v", err)
		}
	}
	command := o.rest
	if len(command) == 0 {
		command = []string{"echo"}
	}
	most := 5000
	if o.has('n') || o.has('L') {
		if most = number(o.last('n', o.last('L', ""))); most < 1 {
			return c.usage("invalid number")
		}
	}
	if replace != "" {
		most = 1
	}
	if len(words) == 0 && (o.has('r') || replace != "") {
		return 0
	}
	code := 0
	for first := true; first || len(words) > 0; first = false {
		n := min(most, len(words))
		args := append([]string{}, command...)
		if replace != "" {
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], replace, words[0])
			}
		} else {
			args = append(args, words[:n]...)
		}
		words = words[n:]
		if o.has('t') {
			fmt.Fprintln(c.err, strings.Join(args, " "))
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, c.err
		err := cmd.Run()
		switch exit := exitCode(err); {
		case err != nil && cmd.Process == nil:
			c.fail("%s: %v", args[0], err)
			return 127
		case exit == 255:
			return 124
		case exit != 0:
			code = 123
		}
	}
	return code
}

func splitOn(s, sep string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, sep), sep)
}

// shellWords splits at blanks; quotes and backslashes protect them.
func shellWords(s string) ([]string, error) {
	var words []string
	var cur strings.Builder
	started := false
	var quote byte
	for i := 0; i < len(s); i++ {
		ch := s[i]
		switch {
		case quote != 0:
			if ch == quote {
				quote = 0
			} else {
				cur.WriteByte(ch)
			}
		case ch == '\'' || ch == '"':
			quote, started = ch, true
		case ch == '\\' && i+1 < len(s):
			i++
			cur.WriteByte(s[i])
			started = true
		case strings.IndexByte(" \t\n", ch) >= 0:
			if started {
				words = append(words, cur.String())
				cur.Reset()
				started = false
			}
		default:
			cur.WriteByte(ch)
			started = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("unmatched %q", string(quote))
	}
	if started {
		words = append(words, cur.String())
	}
	return words, nil
}

// mountEntry is one line of /proc/self/mounts.
type mountEntry struct{ source, dir, fstype, options string }

func mountTable() ([]mountEntry, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var list []mountEntry
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if p := strings.Fields(sc.Text()); len(p) >= 4 {
			list = append(list, mountEntry{plain.Replace(p[0]), plain.Replace(p[1]), p[2], p[3]})
		}
	}
	return list, sc.Err()
}

func mount(c *call) int {
	o, err := getopt(c.args, "t:o:rwn", map[string]byte{"types": 't', "options": 'o', "bind": 'b'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) == 0 {
		mounts, err := mountTable()
		for _, m := range mounts {
			fmt.Fprintf(c.out, "%s on %s type %s (%s)\n", m.source, m.dir, m.fstype, m.options)
		}
		return c.report(err)
	}
	if len(o.rest) != 2 {
		return c.usage("usage: mount [-t TYPE] [-o OPTIONS] SOURCE DIRECTORY")
	}
	var flags uintptr
	var data []string
	if o.has('r') {
		flags |= unix.MS_RDONLY
	}
	if o.has('b') {
		flags |= unix.MS_BIND
	}
	known := map[string]uintptr{"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV,
		"noexec": unix.MS_NOEXEC, "remount": unix.MS_REMOUNT, "bind": unix.MS_BIND, "rbind": unix.MS_BIND | unix.MS_REC,
		"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC, "shared": unix.MS_SHARED,
		"rshared": unix.MS_SHARED | unix.MS_REC, "slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
		"noatime": unix.MS_NOATIME, "relatime": unix.MS_RELATIME, "sync": unix.MS_SYNCHRONOUS, "rw": 0, "defaults": 0}
	for _, list := range o.value['o'] {
		for opt := range strings.SplitSeq(list, ",") {
			if f, ok := known[opt]; ok {
				flags |= f
			} else if opt != "" {
				data = append(data, opt)
			}
		}
	}
	if err := unix.Mount(o.rest[0], o.rest[1], o.last('t', ""), flags, strings.Join(data, ",")); err != nil {
		return c.fail("mounting %s on %s failed: %v", o.rest[0], o.rest[1], err)
	}
	return 0
}

func umount(c *call) int {
	o, err := getopt(c.args, "lfa", map[string]byte{"lazy": 'l', "force": 'f'})
	if err != nil {
		return c.usage("%v", err)
	}
	flags, code := 0, 0
	if o.has('l') {
		flags |= unix.MNT_DETACH
	}
	if o.has('f') {
		flags |= unix.MNT_FORCE
	}
	for _, dir := range o.rest {
		if err := unix.Unmount(dir, flags); err != nil {
			code = c.fail("%s: %v", dir, err)
		}
	}
	return code
}

// process is one row of /proc.
type process struct {
	pid, ppid, uid int
	state          string
	tty            int
	rss            uint64 // KiB
	ticks          uint64
	comm, cmdline  string
}

func processTable() ([]process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var list []process
	for _, dir := range dirs {
		data, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // ended meanwhile
		}
		// pid (comm) state ppid pgrp session tty_nr …; comm may hold spaces and parentheses.
		open, end := strings.IndexByte(string(data), '('), strings.LastIndexByte(string(data), ')')
		f := strings.Fields(string(data[end+1:]))
		if open < 0 || end < open || len(f) < 22 {
			continue
		}
		p := process{pid: number(filepath.Base(dir)), state: f[0], comm: string(data[open+1 : end])}
		p.ppid = number(f[1])
		p.tty = number(f[4])
		for _, at := range []int{11, 12} {
			n, err := strconv.ParseUint(f[at], 10, 64)
			if err != nil {
				continue
			}
			p.ticks += n
		}
		if n, err := strconv.ParseUint(f[21], 10, 64); err == nil {
			p.rss = n * uint64(os.Getpagesize()) / 1024
		}
		var st unix.Stat_t
		if unix.Stat(dir, &st) == nil {
			p.uid = int(st.Uid)
		}
		if cl, err := os.ReadFile(dir + "/cmdline"); err == nil && len(cl) > 0 {
			p.cmdline = strings.TrimRight(strings.ReplaceAll(string(cl), "\x00", " "), " ")
		} else {
			p.cmdline = "[" + p.comm + "]"
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b process) int { return a.pid - b.pid })
	return list, nil
}

// ps always shows every process: in a container there is nothing else to see. -o chooses the columns.
func ps(c *call) int {
	args := c.args
	if len(args) > 0 && (args[0] == "aux" || args[0] == "ax" || args[0] == "ef") {
		args = append([]string{"-" + args[0]}, args[1:]...)
	}
	o, err := getopt(args, "aefAxuwlo:", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	columns := "user,pid,ppid,stat,rss,time,args"
	if len(o.value['o']) > 0 {
		columns = strings.Join(o.value['o'], ",")
	}
	list, err := processTable()
	if err != nil {
		return c.report(err)
	}
	type column struct {
		head  string
		width int
		get   func(p *process) string
	}
	all := map[string]column{
		"user": {"USER", -8, func(p *process) string { return userName(uint32(p.uid)) }},
		"uid":  {"UID", 5, func(p *process) string { return strconv.Itoa(p.uid) }},
		"pid":  {"PID", 5, func(p *process) string { return strconv.Itoa(p.pid) }},
		"ppid": {"PPID", 5, func(p *process) string { return strconv.Itoa(p.ppid) }},
		"stat": {"STAT", -4, func(p *process) string { return p.state }},
		"rss":  {"RSS", 7, func(p *process) string { return strconv.FormatUint(p.rss, 10) }},
		"comm": {"COMMAND", -15, func(p *process) string { return p.comm }},
		"time": {"TIME", 8, func(p *process) string {
			s := p.ticks / 100 // USER_HZ, fixed at 100 for what /proc shows
			return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
		}},
		"args": {"COMMAND", -1, func(p *process) string { return p.cmdline }},
	}
	all["cmd"], all["command"], all["s"], all["state"] = all["args"], all["args"], all["stat"], all["stat"]
	var chosen []column
	heads := false
	for name := range strings.SplitSeq(columns, ",") {
		name, title, renamed := strings.Cut(name, "=")
		col, ok := all[name]
		if !ok {
			return c.usage("unknown column %q", name)
		}
		if renamed {
			col.head = title
		}
		heads = heads || col.head != ""
		chosen = append(chosen, col)
	}
	row := func(cell func(column) string) {
		var cells []string
		for _, col := range chosen {
			cells = append(cells, fmt.Sprintf("%*s", col.width, cell(col)))
		}
		fmt.Fprintln(c.out, strings.TrimRight(strings.Join(cells, " "), " "))
	}
	if heads {
		row(func(col column) string { return col.head })
	}
	for i := range list {
		row(func(col column) string { return col.get(&list[i]) })
	}
	return 0
}

// parseKill reads [-s SIG | -SIG] from the arguments of kill and killall.
func parseKill(args []string) (syscall.Signal, []string, error) {
	sig := syscall.SIGTERM
	if len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
		name := args[0][1:]
		if name == "s" {
			if len(args) < 2 {
				return 0, nil, errors.New("-s requires a signal")
			}
			name, args = args[1], args[1:]
		}
		if name == "0" {
			sig = 0
		} else if sig = signalNumber(name); sig == 0 {
			return 0, nil, fmt.Errorf("%s: unknown signal", name)
		}
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return 0, nil, errors.New("nothing to signal")
	}
	return sig, args, nil
}

func kill(c *call) int {
	if len(c.args) == 1 && c.args[0] == "-l" {
		for n := syscall.Signal(1); n < 32; n++ {
			fmt.Fprintf(c.out, "%2d %s\n", int(n), strings.TrimPrefix(unix.SignalName(n), "SIG"))
		}
		return 0
	}
	sig, pids, err := parseKill(c.args)
	if err != nil {
		return c.usage("%v", err)
	}
	code := 0
	for _, a := range pids {
		pid, err := strconv.Atoi(a)
		if err != nil {
			code = c.fail("%s: not a process id", a)
			continue
		}
		if err := syscall.Kill(pid, sig); err != nil {
			code = c.fail("(%d) - %v", pid, err)
		}
	}
	return code
}

func killall(c *call) int {
	sig, targets, err := parseKill(c.args)
	if err != nil {
		return c.usage("%v", err)
	}
	list, err := processTable()
	if err != nil {
		return c.report(err)
	}
	code := 0
	for _, name := range targets {
		found := false
		for _, p := range list {
			if p.comm == name && p.pid != os.Getpid() {
				found = true
				if err := syscall.Kill(p.pid, sig); err != nil {
					code = c.fail("(%d) - %v", p.pid, err)
				}
			}
		}
		if !found {
			code = c.fail("%s: no process found", name)
		}
	}
	return code
}

func pidof(c *call) int {
	list, err := processTable()
	if err != nil {
		return c.report(err)
	}
	var pids []string
	for _, p := range list {
		if slices.Contains(c.args, p.comm) && p.pid != os.Getpid() {
			pids = append(pids, strconv.Itoa(p.pid))
		}
	}
	if len(pids) == 0 {
		return 1
	}
	fmt.Fprintln(c.out, strings.Join(pids, " "))
	return 0
}
