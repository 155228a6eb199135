package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// row is one line of the table: what was measured, in which unit, every contestant's values, and what is asked of Berth.
type row struct {
	what, unit string
	values     map[string][]float64
	bar        float64 // Docker ÷ Berth that the issue asks for; 0: none
	goal       float64
	most       float64 // or: at most this much
	mostGoal   float64
}

func (r *row) add(name string, v float64) { r.values[name] = append(r.values[name], v) }

func (r *row) median(name string) (float64, bool) {
	v := slices.Clone(r.values[name])
	if len(v) == 0 {
		return 0, false
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2, true
	}
	return v[len(v)/2], true
}

// ratios tells what one makes of the other, round by round: the median, and the quartiles where there are enough rounds for them.
func (r *row) ratios(one, other string) string {
	var q []float64
	for i, v := range r.values[one][:min(len(r.values[one]), len(r.values[other]))] {
		if o := r.values[other][i]; o > 0 {
			q = append(q, v/o)
		}
	}
	if len(q) == 0 {
		return ""
	}
	slices.Sort(q)
	at := func(quarter int) float64 { return q[(len(q)-1)*quarter/4] }
	if len(q) < 5 {
		return fmt.Sprintf("%.2f", at(2))
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", at(2), at(1), at(3))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// measure goes through every row.
func (b *bench) measure() {
	b.memoryOfDaemons()
	for _, network := range []string{"bridge", "none", "host"} {
		r := row{what: "`run --rm IMAGE true`, " + network, unit: "ms"}
		if network == "bridge" {
			r.bar, r.goal = 14, 20
		}
		contestants := b.contestants(func(e *engine) (time.Duration, error) {
			return e.cli("run", "--rm", "--network", network, "bench:1", "true")
		})
		if b.wants("floor") {
			contestants = append(contestants, b.floorRun())
			if network == "none" {
				contestants = append(contestants, b.crunRun()...)
			}
		}
		b.inTurns(&r, contestants)
	}
	for _, e := range b.alive() {
		if _, err := e.cli("run", "-d", "--name", "target", "--network", "none", "bench:1", "sleep", "100000"); err != nil {
			b.note("%s: %v", e.title, err)
		}
	}
	b.inTurns(&row{what: "`exec` of `true`", unit: "ms", bar: 8, goal: 11}, b.contestants(func(e *engine) (time.Duration, error) {
		return e.cli("exec", "target", "true")
	}))
	b.inTurns(&row{what: "client: `version`", unit: "ms"}, b.contestants(func(e *engine) (time.Duration, error) { return e.cli("version") }))
	b.inTurns(&row{what: "client: `ps`", unit: "ms"}, b.contestants(func(e *engine) (time.Duration, error) { return e.cli("ps") }))
	for _, e := range b.alive() {
		if _, err := e.cli(slices.Concat(e.remove, []string{"target"})...); err != nil {
			b.note("%s: %v", e.title, err)
		}
	}
	b.crowds()
}

func (b *bench) alive() []*engine {
	return slices.DeleteFunc(slices.Clone(b.engines), func(e *engine) bool { return e.dead })
}

// contestant is one thing that takes part in a row.
type contestant struct {
	name string
	once func() (time.Duration, error)
}

func (b *bench) contestants(once func(*engine) (time.Duration, error)) []contestant {
	var list []contestant
	for _, e := range b.alive() {
		list = append(list, contestant{e.name, func() (time.Duration, error) { return once(e) }})
	}
	return list
}

// inTurns measures all contestants round by round; the first round warms up and does not count.
func (b *bench) inTurns(r *row, list []contestant) {
	progress("%s", r.what)
	r.values = map[string][]float64{}
	failed := map[string]bool{}
	for round := range b.rounds + 1 {
		for _, c := range list {
			if failed[c.name] {
				continue
			}
			took, err := c.once()
			if err != nil {
				b.note("%s, %s: %v", r.what, c.name, err)
				failed[c.name] = true
				delete(r.values, c.name)
				continue
			}
			if round > 0 {
				r.add(c.name, ms(took))
			}
		}
	}
	b.rows = append(b.rows, *r)
}

// floorRun is what the kernel and two small C programs need for the same namespaces.
func (b *bench) floorRun() contestant {
	return contestant{"floor", func() (time.Duration, error) {
		begin := time.Now()
		out, err := exec.Command("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "chroot", b.rootfs, "/bin/true").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("unshare: %w: %s", err, lastLine(string(out)))
		}
		return time.Since(begin), err
	}}
}

// crunRun is Podman's runtime by itself, without an engine.
func (b *bench) crunRun() []contestant {
	at := slices.IndexFunc(b.engines, func(e *engine) bool { return e.name == "podman" && !e.dead })
	if _, err := exec.LookPath("crun"); err != nil || at < 0 {
		return nil
	}
	bundle := filepath.Join(b.dir, "bundle")
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		b.note("crun: %v", err)
		return nil
	}
	cmd := exec.Command("crun", "spec")
	cmd.Dir = bundle
	if out, err := cmd.CombinedOutput(); err != nil {
		b.note("crun spec: %v: %s", err, out)
		return nil
	}
	config := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(config)
	if err != nil {
		b.note("crun: %v", err)
		return nil
	}
	data = bytes.Replace(data, []byte(`"terminal": true`), []byte(`"terminal": false`), 1)
	data = bytes.Replace(data, []byte(`"sh"`), []byte(`"/bin/true"`), 1)
	data = bytes.Replace(data, []byte(`"path": "rootfs"`), []byte(`"path": "`+b.rootfs+`"`), 1)
	if err := os.WriteFile(config, data, 0o644); err != nil {
		b.note("crun: %v", err)
		return nil
	}
	n := 0
	return []contestant{{"crun", func() (time.Duration, error) {
		n++
		return b.engines[at].run(nil, "crun", "--root", filepath.Join(b.state, "crun"), "--cgroup-manager", "cgroupfs", "run", "--bundle", bundle,
			fmt.Sprintf("bench-%d-%d", os.Getpid(), n))
	}}}
}

// memoryOfDaemons is what settle found.
func (b *bench) memoryOfDaemons() {
	r := row{what: "memory (PSS) of the daemon, fresh and idle", unit: "MB", most: 35, mostGoal: 25, values: map[string][]float64{}}
	for _, e := range b.alive() {
		if e.idle > 0 {
			r.add(e.name, e.idle)
		}
	}
	b.rows = append(b.rows, r)
}

// rest is how long a crowd is left alone before its memory is read: an idle container is what the row is about, and
// every engine gives back some time after a start what it needed for it.
const rest = 5 * time.Second

// crowds starts many containers, 8 at a time, looks at their memory and at ps, and removes them by force.
func (b *bench) crowds() {
	start := row{what: fmt.Sprintf("%d containers on the bridge, started 8 at a time", b.crowd), unit: "s", bar: 6, goal: 10.5, values: map[string][]float64{}}
	remove := row{what: fmt.Sprintf("removing those %d by force", b.crowd), unit: "s", values: map[string][]float64{}}
	memory := row{what: fmt.Sprintf("memory (PSS) per container besides its own process, %d running and at rest", b.crowd), unit: "MB", most: 1, mostGoal: 0.8,
		values: map[string][]float64{}}
	list := row{what: fmt.Sprintf("client: `ps` with %d running", b.crowd), unit: "ms", values: map[string][]float64{}}
	after := row{what: "memory (PSS) of the daemon after all of the above", unit: "MB", mostGoal: 45, values: map[string][]float64{}}
	for round := range b.crowdRounds {
		for _, e := range b.alive() {
			progress("%s: %d containers, round %d", e.title, b.crowd, round+1)
			if err := b.crowd1(e, &start, &remove, &memory, &list); err != nil {
				b.note("%s, %d containers: %v", e.title, b.crowd, err)
			}
		}
	}
	for _, e := range b.alive() {
		total := 0.0
		for _, d := range e.daemons {
			total += pss(d.cmd.Process.Pid)
		}
		if total > 0 {
			after.add(e.name, total)
		}
	}
	b.rows = append(b.rows, start, remove, list, memory, after)
}

func (b *bench) crowd1(e *engine, start, remove, memory, list *row) error {
	before := map[int]bool{}
	for _, p := range processes() {
		before[p.pid] = true
	}
	names := make([]string, b.crowd)
	work := make(chan string)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	begin := time.Now()
	for range 8 {
		wg.Go(func() {
			for name := range work {
				if _, err := e.cli("run", "-d", "--name", name, "bench:1", "sleep", "100000"); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	for i := range names {
		names[i] = fmt.Sprintf("crowd%d", i)
		work <- names[i]
	}
	close(work)
	wg.Wait()
	took := time.Since(begin)
	defer func() { _, _ = e.cli(slices.Concat(e.remove, names)...) }() // again, for what failed; a double is no harm
	if first != nil {
		return first
	}
	start.add(e.name, took.Seconds())
	time.Sleep(rest)
	keepers, total := 0, 0.0
	for _, p := range processes() {
		if !before[p.pid] && strings.Contains(p.exe, e.keeper) && p.ours {
			keepers++
			total += pss(p.pid)
		}
	}
	if keepers > 0 {
		memory.add(e.name, total/float64(b.crowd))
	}
	for range 5 {
		t, err := e.cli("ps")
		if err != nil {
			return err
		}
		list.add(e.name, ms(t))
	}
	t, err := e.cli(slices.Concat(e.remove, names)...)
	if err != nil {
		return err
	}
	remove.add(e.name, t.Seconds())
	return nil
}

// proc is one process of the machine.
type proc struct {
	pid  int
	exe  string
	args []string
	ours bool // in our pid namespace: no container's own
}

func processes() []proc {
	self, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var list []proc
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		exe, err := os.Readlink(d + "/exe")
		if err != nil {
			continue
		}
		ns, err := os.Readlink(d + "/ns/pid")
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(d + "/cmdline")
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		if len(args) > 0 {
			exe += " " + args[0] // a program in a memfd has a path that may say nothing
		}
		list = append(list, proc{pid, exe, args, ns == self})
	}
	return list
}

// pss is a process's proportional share of memory in MB.
func pss(pid int) float64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) > 1 && fields[0] == "Pss:" {
			kb, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				return 0
			}
			return kb / 1024
		}
	}
	return 0
}

// surroundings says on what and with what was measured.
func (b *bench) surroundings() string {
	var s strings.Builder
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		fmt.Fprintf(&s, "Linux %s, %d CPUs; ", unix.ByteSliceToString(uts.Release[:]), runtime.NumCPU())
	}
	var versions []string
	for _, e := range b.engines {
		if !e.dead {
			versions = append(versions, e.title+" "+e.version)
		}
	}
	fmt.Fprintf(&s, "%s. Compare within a row: the machine differs from day to day.\n\n", strings.Join(versions, ", "))
	return s.String()
}

// report writes the table.
func (b *bench) report() string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Benchmark\n\nMade by `make bench` on %s in %s; medians of %d rounds in turns (the rows with %d containers: %d).\n",
		b.started.UTC().Format("2006-01-02 15:04 MST"), time.Since(b.started).Round(time.Second), b.rounds, b.crowd, b.crowdRounds)
	s.WriteString(b.surroundings())
	s.WriteString("| what | Berth | Docker | Podman | floor | Docker ÷ Berth | asked for |\n|---|---|---|---|---|---|---|\n")
	for _, r := range b.rows {
		cell := func(name string) string {
			v, ok := r.median(name)
			if !ok {
				return "–"
			}
			return number(v) + " " + r.unit
		}
		floor := cell("floor")
		if v, ok := r.median("crun"); ok {
			floor += fmt.Sprintf(" (crun alone: %s)", number(v))
		}
		ratio := "–"
		ours, ok1 := r.median("berth")
		docker, ok2 := r.median("docker")
		if ok1 && ok2 && ours > 0 {
			ratio = fmt.Sprintf("%.1f", docker/ours)
		}
		asked := r.asked(ours, docker, ok1, ok2)
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s |\n", r.what, cell("berth"), cell("docker"), cell("podman"), floor, ratio, asked)
	}
	s.WriteString("\nThe floor is `unshare` of the same namespaces with `chroot … true`. Docker is measured with its own client.\n")
	for _, n := range b.notes {
		fmt.Fprintf(&s, "\n- %s\n", n)
	}
	return s.String()
}

// asked says what the row asks of Berth, and whether it is there.
func (r *row) asked(ours, docker float64, haveOurs, haveDocker bool) string {
	switch {
	case r.bar > 0:
		text := fmt.Sprintf("≥ %g (goal %g)", r.bar, r.goal)
		if haveOurs && haveDocker {
			text += verdict(docker/ours >= r.goal, docker/ours >= r.bar)
		}
		return text
	case r.most > 0:
		text := fmt.Sprintf("≤ %g %s (goal %g)", r.most, r.unit, r.mostGoal)
		if haveOurs {
			text += verdict(ours <= r.mostGoal, ours <= r.most)
		}
		return text
	case r.mostGoal > 0:
		text := fmt.Sprintf("goal ≤ %g %s", r.mostGoal, r.unit)
		if haveOurs {
			text += verdict(ours <= r.mostGoal, false)
		}
		return text
	}
	return ""
}

func verdict(goal, bar bool) string {
	switch {
	case goal:
		return ": goal met"
	case bar:
		return ": met"
	}
	return ": **not met**"
}

// number prints three figures that mean something.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return strconv.FormatFloat(v, 'f', max(0, min(digits, 3)), 64)
}
