package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
)

// Stats is one sample of what a container uses.
type Stats struct {
	Read     time.Time
	Cgroup   *cgroup.Stats
	Networks map[string]linux.LinkCounters // by interface name inside the container
	// SystemCPU is the time all processors together have spent since boot, in nanoseconds; OnlineCPUs their number.
	SystemCPU   uint64
	OnlineCPUs  int
	MemoryTotal uint64 // bytes of the machine
}

// Stats takes a sample; a container that does not run has an empty one.
func (e *Engine) Stats(_ context.Context, ref string) (*Stats, error) {
	rec, err := e.Containers.Get(ref)
	if err != nil {
		return nil, err
	}
	s := &Stats{Read: time.Now().UTC(), OnlineCPUs: e.cpus, Networks: map[string]linux.LinkCounters{}}
	if !rec.State.Alive() {
		s.Cgroup = &cgroup.Stats{}
		return s, nil
	}
	if s.Cgroup, err = e.cgroups.Open(e.cgroupPath(rec)).Stats(); err != nil {
		if errors.Is(err, fs.ErrNotExist) { // it ended meanwhile
			s.Cgroup = &cgroup.Stats{}
			return s, nil
		}
		return nil, fmt.Errorf("read the counters of container %q: %w", rec.Name, err)
	}
	if s.SystemCPU, err = systemCPU(); err != nil {
		return nil, err
	}
	if s.MemoryTotal, err = memoryTotal(); err != nil {
		return nil, err
	}
	if s.Cgroup.Memory.Limit == 0 || s.Cgroup.Memory.Limit > s.MemoryTotal { // no limit of its own
		s.Cgroup.Memory.Limit = s.MemoryTotal
	}
	if rec.Config.Net.Mode != "host" {
		links, err := linux.NetDev(rec.State.Pid)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, l := range links {
			if l.Name != "lo" {
				s.Networks[l.Name] = l
			}
		}
	}
	return s, nil
}

// systemCPU adds up the first line of /proc/stat, whose unit is a hundredth of a second; the time of guests is already
// part of user time.
func systemCPU() (uint64, error) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	if !s.Scan() {
		return 0, errors.New("read /proc/stat: it is empty")
	}
	v := strings.Fields(s.Text())
	if len(v) < 8 || v[0] != "cpu" {
		return 0, fmt.Errorf("read /proc/stat: unexpected line %q", s.Text())
	}
	var sum uint64
	for _, t := range v[1:8] {
		n, err := strconv.ParseUint(t, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		sum += n
	}
	return sum * uint64(time.Second/100), nil
}

func memoryTotal() (uint64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v := strings.Fields(s.Text()); len(v) >= 2 && v[0] == "MemTotal:" {
			kb, err := strconv.ParseUint(v[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("read /proc/meminfo: no MemTotal")
}

// bootedSince says whether the machine was started after t.
func bootedSince(t time.Time) bool {
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return false
	}
	up, _, _ := strings.Cut(string(data), " ")
	seconds, err := strconv.ParseFloat(up, 64)
	return err == nil && time.Now().Add(-time.Duration(seconds*float64(time.Second))).After(t)
}

// Top lists the processes of a container as ps(1) shows them. psArgs are ps's own options; "" is "-ef". The answer is read
// from /proc, so that no program runs on the host at a client's word.
func (e *Engine) Top(_ context.Context, ref, psArgs string) (titles []string, rows [][]string, err error) {
	rec, _, err := e.running(ref)
	if err != nil {
		return nil, nil, err
	}
	columns, err := psColumns(psArgs)
	if err != nil {
		return nil, nil, err
	}
	pids, err := e.cgroups.Open(e.cgroupPath(rec)).Pids()
	if err != nil {
		return nil, nil, fmt.Errorf("list the processes of container %q: %w", rec.Name, err)
	}
	slices.Sort(pids)
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	sys, err := newProcReader()
	if err != nil {
		return nil, nil, err
	}
	for _, pid := range pids {
		p, err := sys.read(pid)
		if err != nil {
			continue // it has just ended
		}
		var row []string
		for _, c := range columns {
			row = append(row, c.value(p))
		}
		rows = append(rows, row)
	}
	return titles, rows, nil
}

type psColumn struct {
	names string // of ps -o, separated by spaces
	title string
	value func(procInfo) string
}

var psKnown = [...]psColumn{
	{"uid user euser", "UID", func(p procInfo) string { return p.user }},
	{"pid", "PID", func(p procInfo) string { return strconv.Itoa(p.pid) }},
	{"ppid", "PPID", func(p procInfo) string { return strconv.Itoa(p.ppid) }},
	{"c %cpu pcpu", "C", func(p procInfo) string { return strconv.Itoa(p.cpuPercent) }},
	{"stime start", "STIME", func(p procInfo) string { return p.started }},
	{"tty tt", "TTY", func(p procInfo) string { return p.tty }},
	{"time cputime", "TIME", func(p procInfo) string { return p.cpuTime }},
	{"cmd command args", "CMD", func(p procInfo) string { return p.command }},
	{"comm ucmd", "COMMAND", func(p procInfo) string { return p.comm }},
	{"rss", "RSS", func(p procInfo) string { return strconv.FormatUint(p.rssKB, 10) }},
	{"vsz", "VSZ", func(p procInfo) string { return strconv.FormatUint(p.vszKB, 10) }},
	{"stat state s", "STAT", func(p procInfo) string { return p.state }},
	{"nlwp", "NLWP", func(p procInfo) string { return strconv.Itoa(p.threads) }},
	{"%mem pmem", "%MEM", func(p procInfo) string { return p.memPercent }},
}

// psColumns understands "-ef", "aux" and their like, and any list for -o of the columns above.
func psColumns(args string) ([]psColumn, error) {
	pick := func(names ...string) ([]psColumn, error) {
		var out []psColumn
		for _, n := range names {
			name, title, renamed := strings.Cut(n, "=")
			i := slices.IndexFunc(psKnown[:], func(c psColumn) bool {
				return slices.Contains(strings.Fields(c.names), strings.ToLower(name))
			})
			if i < 0 {
				return nil, fmt.Errorf("top: unknown column %q: try pid,ppid,user,%%cpu,%%mem,vsz,rss,tty,stat,stime,time,args%w",
					name, kind{errdefs.ErrInvalidArgument})
			}
			c := psKnown[i]
			if renamed {
				c.title = title
			}
			out = append(out, c)
		}
		return out, nil
	}
	words := strings.Fields(args)
	var custom []string
	format := "-ef"
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "-o" || w == "o" || w == "-eo" || w == "-o=":
			if i++; i == len(words) {
				return nil, fmt.Errorf("top: -o needs a list of columns%w", kind{errdefs.ErrInvalidArgument})
			}
			custom = append(custom, strings.Split(words[i], ",")...)
		case strings.HasPrefix(w, "-o"):
			custom = append(custom, strings.Split(w[2:], ",")...)
		case slices.Contains([]string{"-ef", "-e", "-A", "-f", "ef", "axf", "-a", "-x"}, w):
		case slices.Contains([]string{"aux", "-aux", "u", "axu", "-u"}, w):
			format = "aux"
		default:
			return nil, fmt.Errorf("top: ps option %q is not known here: use -ef, aux or -o COLUMNS%w", w, kind{errdefs.ErrInvalidArgument})
		}
	}
	switch {
	case custom != nil:
		if !slices.ContainsFunc(custom, func(c string) bool { return strings.HasPrefix(strings.ToLower(c), "pid") }) {
			return nil, fmt.Errorf("top: couldn't find PID field in ps output: add it to the list of columns%w",
				kind{errdefs.ErrInvalidArgument})
		}
		return pick(custom...)
	case format == "aux":
		return pick("user=USER", "pid", "%cpu=%CPU", "%mem", "vsz", "rss", "tty", "stat", "stime=START", "time", "args=COMMAND")
	}
	return pick("uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
}

// procInfo is one process as ps(1) tells of it.
type procInfo struct {
	pid, ppid, cpuPercent, threads int
	user, started, tty, cpuTime    string
	command, comm, state           string
	rssKB, vszKB                   uint64
	memPercent                     string
}

type procReader struct {
	boot  time.Time
	users map[uint32]string
	total uint64
}

func newProcReader() (*procReader, error) {
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return nil, err
	}
	up, _, _ := strings.Cut(string(data), " ")
	seconds, err := strconv.ParseFloat(up, 64)
	if err != nil {
		return nil, fmt.Errorf("read /proc/uptime: %w", err)
	}
	total, err := memoryTotal()
	if err != nil {
		return nil, err
	}
	return &procReader{boot: time.Now().Add(-time.Duration(seconds * float64(time.Second))), total: total,
		users: hostUsers()}, nil
}

// hostUsers are the host's names of users: ps on the host shows those.
func hostUsers() map[uint32]string {
	out := map[uint32]string{}
	data, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(line, ":")
		if len(f) < 3 {
			continue
		}
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			out[uint32(n)] = f[0]
		}
	}
	return out
}

const clockTick = 100 // USER_HZ, fixed for user space

// read parses /proc/PID/stat, whose second field may hold spaces and parentheses (proc_pid_stat(5)).
func (r *procReader) read(pid int) (procInfo, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	data, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return procInfo{}, err
	}
	text := string(data)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return procInfo{}, fmt.Errorf("read %s/stat: no name", dir)
	}
	f := strings.Fields(text[end+1:])
	if len(f) < 22 {
		return procInfo{}, fmt.Errorf("read %s/stat: too short", dir)
	}
	n := func(i int) uint64 { v, _ := strconv.ParseUint(f[i], 10, 64); return v }
	st, err := os.Stat(dir)
	if err != nil {
		return procInfo{}, err
	}
	uid := ownerOf(st)
	user := r.users[uid]
	if user == "" {
		user = strconv.FormatUint(uint64(uid), 10)
	}
	cpu := time.Duration(n(11)+n(12)) * time.Second / clockTick
	start := r.boot.Add(time.Duration(n(19)) * time.Second / clockTick)
	p := procInfo{pid: pid, ppid: int(n(1)), state: f[0], comm: text[open+1 : end], threads: int(n(17)), user: user,
		cpuTime: fmt.Sprintf("%02d:%02d:%02d", int(cpu.Hours()), int(cpu.Minutes())%60, int(cpu.Seconds())%60),
		tty:     ttyName(n(4)), vszKB: n(20) >> 10, rssKB: n(21) * uint64(os.Getpagesize()) >> 10}
	if age := time.Since(start); age > 0 {
		p.cpuPercent = min(int(100*cpu/age), 99)
	}
	p.started = start.Local().Format("15:04")
	if time.Since(start) > 24*time.Hour {
		p.started = start.Local().Format("Jan02")
	}
	p.memPercent = fmt.Sprintf("%.1f", 100*float64(p.rssKB<<10)/float64(r.total))
	args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return procInfo{}, err
	}
	p.command = strings.ReplaceAll(strings.TrimRight(string(args), "\x00"), "\x00", " ")
	if p.command == "" {
		p.command = "[" + p.comm + "]"
	}
	return p, nil
}

func ttyName(dev uint64) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	switch {
	case dev == 0:
		return "?"
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", (major-136)<<8+minor)
	}
	return fmt.Sprintf("tty%d", minor)
}
