// Bench measures Berth beside Docker (Debian's docker.io with its containerd and runc), Podman and the bare kernel, and
// writes one table. It is a benchmark and no test: nothing fails on a time.
//
// All are measured in the same run and in turns (one round of each, then the next round), because the machine is noisier
// from minute to minute than the engines differ; what is shown are medians, and what counts are ratios within one row.
// Every engine gets the same image (Debian's static busybox), fresh roots on the same disk, and a network and a mount
// namespace of its own with its daemon and its commands inside: its bridge, its firewall rules and its mounts go with
// them, and the host's stay as they were found. Daemons are stopped by their process id.
//
//	go run ./bench [-rounds 20] [-o bench/RESULTS.md] [-only berth,docker] [-smoke]
//	go run ./bench -pull [-rounds 7] [-o bench/PULL.md] [-only berth,floor]
//	go run ./bench -network [-o bench/NETWORK.md]      streams, requests and ports instead of starts
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 0, "rounds of each short measurement (21, of pulls 7)")
	out := flag.String("o", "", "file to write the table to, besides standard output")
	only := flag.String("only", "berth,docker,podman,floor", "engines to measure")
	smoke := flag.Bool("smoke", false, "5 rounds and 16 containers, to see that it works")
	pull := flag.Bool("pull", false, "measure pulls and nothing else")
	match := flag.String("match", "", "of networks, measure only rows that this regular expression matches")
	ofNetwork := flag.Bool("network", false, "measure networks: streams, requests, ports")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: needs root")
		os.Exit(1)
	}
	b := &bench{rounds: 21, crowd: 100, crowdRounds: 3, only: strings.Split(*only, ","), pull: *pull}
	if *pull {
		b.rounds = 7
	}
	if *smoke {
		b.rounds, b.crowd, b.crowdRounds = 5, 16, 1
	}
	if b.network = *ofNetwork; b.network {
		var err error
		if b.match, err = regexp.Compile(*match); err != nil {
			fmt.Fprintf(os.Stderr, "bench: -match: %v\n", err)
			os.Exit(1)
		}
		b.rounds, b.seconds, b.requests = 3, 1, 4000
		if *smoke {
			b.rounds, b.seconds, b.requests = 1, 1, 500
		}
		if *only == flag.Lookup("only").DefValue {
			b.only = []string{"berth", "docker", "docker-noproxy"}
		}
	}
	if *rounds > 0 {
		b.rounds = *rounds
	}
	// A Ctrl-C must not leave daemons behind: it ends the measuring, and the end takes everything down.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- b.run() }()
	var err error
	select {
	case err = <-done:
	case <-interrupted:
		b.shut(true)
		<-done // what runs ends, and nothing is started any more
		b.shut(false)
		err = errors.New("interrupted")
	}
	b.close()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		if b.network && len(b.rows) > 0 { // what was measured until then, but not for the file
			fmt.Print(b.networkReport())
		}
		os.Exit(1)
	}
	text := ""
	switch {
	case *pull:
		text = b.pullReport()
	case b.network:
		text = b.networkReport()
	default:
		text = b.report()
	}
	fmt.Print(text)
	if *out != "" {
		if err := os.WriteFile(*out, []byte(text), 0o644); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			os.Exit(1)
		}
	}
}

// bench is one run.
type bench struct {
	rounds, crowd, crowdRounds int
	network                    bool
	seconds, requests          int // of a stream, in a measurement
	match                      *regexp.Regexp
	only                       []string
	pull                       bool
	dir                        string
	disk                       string // file of the file system that dir is on, if it is not the machine's
	state                      string // on a tmpfs, as /run is everywhere: what engines forget with a reboot
	rootfs                     string // busybox's file system as a folder, for the floors
	image                      string // and as a tar; of pulls, what was pulled
	engines                    []*engine
	notes                      []string
	rows                       []row
	started                    time.Time
}

// shut keeps all engines from starting anything, or lets them again.
func (b *bench) shut(yes bool) {
	for _, e := range b.engines {
		if e.room != nil {
			e.room.shut.Store(yes)
		}
	}
}

func (b *bench) wants(name string) bool { return slices.Contains(b.only, name) }

// run prepares the engines and measures every row.
func (b *bench) run() error {
	b.started = time.Now()
	var err error
	if b.dir, err = os.MkdirTemp("/var/tmp", "berth-bench-"); err != nil {
		return err
	}
	if b.pull {
		if err := b.freshDisk(); err != nil {
			return fmt.Errorf("making a file system: %w", err)
		}
	}
	if b.state, err = os.MkdirTemp("/dev/shm", "berth-bench-"); err != nil {
		return err
	}
	if err := os.Chmod(b.state, 0o711); err != nil {
		return err
	}
	if err := b.makeImage(); err != nil {
		return fmt.Errorf("making the image: %w", err)
	}
	makers := []func(*bench) *engine{newBerth, dockerWith("docker", "Docker", "10.214.2.1/24"), newPodman}
	if b.network {
		if err := b.networkImage(); err != nil {
			return fmt.Errorf("making the image: %w", err)
		}
		makers = networkEngines()
	}
	for _, make := range makers {
		e := make(b)
		if !b.wants(e.name) {
			continue
		}
		progress("starting %s", e.name)
		b.engines = append(b.engines, e)
		if err := e.begin(); err != nil {
			b.note("%s is not measured: %v", e.title, err)
			e.dead = true
		}
	}
	if !slices.ContainsFunc(b.engines, func(e *engine) bool { return !e.dead }) {
		return errors.New("no engine could be started: " + strings.Join(b.notes, "; "))
	}
	if b.pull {
		return b.measurePulls()
	}
	if b.network {
		b.measureNetwork()
	} else {
		b.measure()
	}
	return nil
}

// close takes everything down; it may be called at any point of run.
func (b *bench) close() {
	for _, e := range b.engines {
		e.end()
	}
	b.dropDisk()
	for _, dir := range []string{b.dir, b.state} {
		if dir == "" {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintf(os.Stderr, "bench: removing %s: %v\n", dir, err)
		}
	}
}

func (b *bench) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.notes = append(b.notes, text)
	fmt.Fprintf(os.Stderr, "bench: %s\n", text)
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }

// makeImage lays out busybox and a link per command, as a folder and as a tar.
func (b *bench) makeImage() error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w (make setup installs it)", err)
	}
	b.rootfs = filepath.Join(b.dir, "rootfs")
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(b.rootfs, d), 0o755); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.rootfs, "bin/busybox"), data, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"sh", "true", "sleep", "echo"} {
		if err := os.Symlink("busybox", filepath.Join(b.rootfs, "bin", name)); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(b.rootfs, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\n"), 0o644); err != nil {
		return err
	}
	b.image = filepath.Join(b.dir, "image.tar")
	return exec.Command("tar", "-C", b.rootfs, "-cf", b.image, ".").Run()
}
