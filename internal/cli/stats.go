package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newStats(a *app) *cobra.Command {
	var all, noStream, noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use: "stats [OPTIONS] [CONTAINER...]", Short: "Show what containers use, again and again",
		DisableFlagsInUseLine: true, ValidArgsFunction: a.completeAll(a.containerNames(false)),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if format == "" {
			config, err := a.configFile()
			if err != nil {
				return err
			}
			format = config.StatsFormat
		}
		s := &statsView{a: a, all: all, noStream: noStream, noTrunc: noTrunc, format: format, changed: make(chan struct{}, 1)}
		if all && len(args) > 0 {
			return errors.New("the --all flag (-a) cannot be used when naming containers")
		}
		return s.run(cmd.Context(), args)
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Show all containers, not only running ones")
	f.StringVar(&format, "format", "", formatUsage)
	f.BoolVar(&noStream, "no-stream", false, "Show one sample and end")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten the output")
	return cmd
}

// sample is the last that is known of one container.
type sample struct {
	asked    string // the name or ID the person or the list gave
	id, name string
	err      error
	none     bool // nothing was read yet

	cpu, memory, limit, memoryPercent float64
	netIn, netOut, blockIn, blockOut  float64
	pids                              uint64
}

// statsView keeps one reader per container and draws what they read, when something changed.
type statsView struct {
	a                      *app
	all, noStream, noTrunc bool
	format                 string

	mu      sync.Mutex // guards samples
	samples []*sample

	changed chan struct{}
}

func (s *statsView) run(ctx context.Context, names []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	api, err := s.a.client()
	if err != nil {
		return err
	}
	l := statsListing(s.noTrunc)
	if err := s.checkFormat(l); err != nil {
		return err
	}
	var readers sync.WaitGroup
	watch := func(name string) {
		x := &sample{asked: name, none: true}
		s.mu.Lock()
		s.samples = append(s.samples, x)
		s.mu.Unlock()
		readers.Go(func() { s.read(ctx, api, x) })
	}
	var started <-chan events.Message
	if len(names) == 0 {
		if !s.noStream {
			// Listen before listing, so that none is missed in between.
			started = api.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("type", "container")}).Messages
		}
		list, err := api.ContainerList(ctx, client.ContainerListOptions{All: s.all})
		if err != nil {
			return err
		}
		for _, c := range list.Items {
			watch(c.ID)
		}
	} else {
		for _, name := range names {
			watch(name)
		}
	}
	if s.noStream {
		readers.Wait()
		return s.finish(l, len(names) > 0)
	}
	return s.redraw(ctx, l, started, watch, len(names) > 0, &readers)
}

// checkFormat finds a mistake in --format before the screen is cleared.
func (s *statsView) checkFormat(l *listing[*sample]) error {
	return l.print(io.Discard, s.format, []*sample{{none: true}})
}

// finish prints one sample of every container.
func (s *statsView) finish(l *listing[*sample], named bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var shown []*sample
	var failed []error
	for _, x := range s.samples {
		if x.err != nil && (named || !gone(x.err)) {
			failed = append(failed, x.err)
			continue
		}
		if x.err == nil {
			shown = append(shown, x)
		}
	}
	if len(failed) > 0 {
		return joined(failed)
	}
	return l.print(s.a.Out, s.format, shown)
}

func gone(err error) bool { return strings.Contains(err.Error(), "No such container") }

// redraw draws the table whenever something new was read, at most twice in a second.
func (s *statsView) redraw(ctx context.Context, l *listing[*sample], started <-chan events.Message, watch func(string),
	named bool, readers *sync.WaitGroup) error {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(interrupted)
	ended := make(chan struct{})
	if named {
		go func() { readers.Wait(); close(ended) }()
	}
	_, screen := terminal(s.a.Out)
	pace := time.NewTicker(500 * time.Millisecond)
	defer pace.Stop()
	dirty, over := true, false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-interrupted:
			return nil
		case <-s.changed:
			dirty = true
			continue
		case e := <-started:
			s.event(e, watch)
			continue
		case <-ended:
			over, ended = true, nil
		case <-pace.C:
		}
		if !dirty && !over {
			continue
		}
		dirty = false
		if err := s.draw(l, screen); err != nil {
			return err
		}
		if over {
			return s.errors()
		}
	}
}

// event keeps the list of containers up to date.
func (s *statsView) event(e events.Message, watch func(string)) {
	switch e.Action {
	case events.ActionStart:
		if !s.has(e.Actor.ID) {
			watch(e.Actor.ID)
		}
	case events.ActionCreate:
		if s.all && !s.has(e.Actor.ID) {
			watch(e.Actor.ID)
		}
	case events.ActionDie:
		if !s.all {
			s.drop(e.Actor.ID)
		}
	case events.ActionDestroy:
		s.drop(e.Actor.ID)
	}
}

func (s *statsView) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.samples {
		if x.asked == id {
			return true
		}
	}
	return false
}

func (s *statsView) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept []*sample
	for _, x := range s.samples {
		if x.asked != id {
			kept = append(kept, x)
		}
	}
	s.samples = kept
}

func (s *statsView) errors() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed []error
	for _, x := range s.samples {
		if x.err != nil && !errors.Is(x.err, io.EOF) {
			failed = append(failed, x.err)
		}
	}
	return joined(failed)
}

// draw writes the table over the last one.
func (s *statsView) draw(l *listing[*sample], screen bool) error {
	s.mu.Lock()
	var shown []*sample
	for _, x := range s.samples {
		if x.err == nil || errors.Is(x.err, io.EOF) {
			c := *x
			shown = append(shown, &c)
		}
	}
	s.mu.Unlock()
	var b bytes.Buffer
	if err := l.print(&b, s.format, shown); err != nil {
		return err
	}
	text := b.String()
	if screen {
		// Home, and clear to the end of every line and of the screen: no flicker of a cleared one.
		text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
	}
	_, err := io.WriteString(s.a.Out, text)
	return err
}

// read follows one container until its stream ends.
func (s *statsView) read(ctx context.Context, api *client.Client, x *sample) {
	fail := func(err error) {
		s.mu.Lock()
		x.err = err
		s.mu.Unlock()
		s.tell()
	}
	stream, err := api.ContainerStats(ctx, x.asked, client.ContainerStatsOptions{Stream: !s.noStream,
		IncludePreviousSample: true})
	if err != nil {
		fail(err)
		return
	}
	defer stream.Body.Close()
	dec := json.NewDecoder(stream.Body)
	for {
		var v container.StatsResponse
		if err := dec.Decode(&v); err != nil {
			if !(s.noStream && errors.Is(err, io.EOF)) {
				fail(err)
			}
			return
		}
		s.mu.Lock()
		x.take(&v)
		s.mu.Unlock()
		s.tell()
		if s.noStream {
			return
		}
	}
}

func (s *statsView) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// take computes the figures from what the kernel counts.
func (x *sample) take(v *container.StatsResponse) {
	x.id, x.name, x.none = v.ID, strings.TrimPrefix(v.Name, "/"), v.CPUStats.SystemUsage == 0 && v.Read.IsZero()
	x.cpu = cpuPercent(v)
	x.memory, x.limit = usedMemory(&v.MemoryStats), float64(v.MemoryStats.Limit)
	x.memoryPercent = 0
	if x.limit > 0 {
		x.memoryPercent = x.memory / x.limit * 100
	}
	x.netIn, x.netOut, x.blockIn, x.blockOut = 0, 0, 0, 0
	for _, n := range v.Networks {
		x.netIn += float64(n.RxBytes)
		x.netOut += float64(n.TxBytes)
	}
	for _, e := range v.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(e.Op) {
		case "read":
			x.blockIn += float64(e.Value)
		case "write":
			x.blockOut += float64(e.Value)
		}
	}
	x.pids = v.PidsStats.Current
}

func cpuPercent(v *container.StatsResponse) float64 {
	used := float64(v.CPUStats.CPUUsage.TotalUsage) - float64(v.PreCPUStats.CPUUsage.TotalUsage)
	of := float64(v.CPUStats.SystemUsage) - float64(v.PreCPUStats.SystemUsage)
	cpus := float64(v.CPUStats.OnlineCPUs)
	if cpus == 0 {
		cpus = float64(len(v.CPUStats.CPUUsage.PercpuUsage))
	}
	if of <= 0 || used <= 0 {
		return 0
	}
	return used / of * cpus * 100
}

// usedMemory leaves out file pages the kernel can drop at once: cgroup v1 counts them in total_inactive_file, v2 in
// inactive_file.
func usedMemory(m *container.MemoryStats) float64 {
	for _, name := range []string{"total_inactive_file", "inactive_file"} {
		if v, ok := m.Stats[name]; ok {
			if v < m.Usage {
				return float64(m.Usage - v)
			}
			return float64(m.Usage)
		}
	}
	return float64(m.Usage)
}

func statsListing(noTrunc bool) *listing[*sample] {
	text := func(f func(*sample) string) func(*sample) any {
		return func(x *sample) any {
			if x.none || x.err != nil {
				return "--"
			}
			return f(x)
		}
	}
	pair := func(f func(*sample) (float64, float64), size func(float64) string) func(*sample) any {
		return func(x *sample) any {
			if x.none || x.err != nil {
				return "-- / --"
			}
			a, b := f(x)
			return size(a) + " / " + size(b)
		}
	}
	decimal := func(n float64) string { return units.HumanSizeWithPrecision(n, 3) }
	id := func(x *sample) string {
		s := x.id
		if s == "" {
			s = x.asked
		}
		if noTrunc {
			return s
		}
		return shortID(s)
	}
	return &listing[*sample]{
		table: `{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}`,
		columns: []column[*sample]{
			{"Container", "CONTAINER", func(x *sample) any { return x.asked }},
			{"ID", "CONTAINER ID", func(x *sample) any { return id(x) }},
			{"Name", "NAME", func(x *sample) any {
				if x.name == "" {
					return "--"
				}
				return x.name
			}},
			{"CPUPerc", "CPU %", text(func(x *sample) string { return fmt.Sprintf("%.2f%%", x.cpu) })},
			{"MemUsage", "MEM USAGE / LIMIT",
				pair(func(x *sample) (float64, float64) { return x.memory, x.limit }, units.BytesSize)},
			{"MemPerc", "MEM %", text(func(x *sample) string { return fmt.Sprintf("%.2f%%", x.memoryPercent) })},
			{"NetIO", "NET I/O", pair(func(x *sample) (float64, float64) { return x.netIn, x.netOut }, decimal)},
			{"BlockIO", "BLOCK I/O", pair(func(x *sample) (float64, float64) { return x.blockIn, x.blockOut }, decimal)},
			{"PIDs", "PIDS", text(func(x *sample) string { return fmt.Sprint(x.pids) })},
		},
	}
}
