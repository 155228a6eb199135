package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/berth-engine/berth/internal/tty"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// verb is one command of the runtime.
type verb struct {
	name, args, help string
	run              func(c *cli, args []string) error
}

// verbs is the table of commands.
func verbs() []verb {
	return []verb{
		{"checkpoint", "ID", "save a container's processes to files, with criu", checkpoint},
		{"create", "ID", "make a container whose process waits for start", create},
		{"delete", "ID", "remove what a container that has ended leaves", remove},
		{"events", "ID", "print a container's counters and its lacks of memory, as JSON", events},
		{"exec", "ID COMMAND [ARGS…]", "run a process in a container", execute},
		{"features", "", "tell what this runtime can do, as JSON", features},
		{"kill", "ID [SIGNAL]", "send a signal to a container's first process", kill},
		{"list", "", "list the containers below --root", list},
		{"pause", "ID", "stop all processes of a container", pause},
		{"ps", "ID [PS-OPTIONS]", "show the processes of a container", ps},
		{"resume", "ID", "let the processes of a paused container go on", resume},
		{"restore", "ID", "make a container from a checkpoint, with criu", restore},
		{"run", "ID", "create and start a container", runContainer},
		{"spec", "", "write a config.json to begin with", writeSpec},
		{"start", "ID", "let a created container's process go on into its program", start},
		{"state", "ID", "tell a container's state, as JSON", state},
		{"update", "ID", "change a container's limits", update},
	}
}

// cli is one run of the command: the global flags.
type cli struct {
	root, logFile, logFormat string
	debug, systemdCgroup     bool
	rootless                 string
	entered                  bool // the container's user namespace: see rootless.go
	out                      io.Writer
}

// exitStatus is an error that is only an exit code: what was run has said everything.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// failure is an error with an exit code of its own.
type failure struct {
	error
	code int
}

func (f failure) Unwrap() error { return f.error }

// command runs one command line and gives its exit code.
func command(args []string) int {
	c := &cli{out: os.Stdout}
	if len(args) > 0 && args[0] == enteredVerb && linux.InUserNamespace() {
		c.entered, args = true, args[1:]
	}
	err := c.dispatch(args)
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	c.complain(err)
	var f failure
	if errors.As(err, &f) {
		return f.code
	}
	return 1
}

func (c *cli) dispatch(args []string) error {
	f := newFlags("berth-runtime", "[GLOBAL FLAGS] COMMAND [FLAGS] …")
	f.StringVar(&c.root, "root", defaultRoot(), "directory of the containers' states")
	f.StringVar(&c.logFile, "log", "", "file for errors, beside standard error")
	f.StringVar(&c.logFormat, "log-format", "text", "text or json")
	f.BoolVar(&c.debug, "debug", false, "show warnings also where standard error is not a terminal")
	f.BoolVar(&c.systemdCgroup, "systemd-cgroup", false, "let systemd make the cgroup: cgroupsPath is \"slice:prefix:name\"")
	f.StringVar(&c.rootless, "rootless", "auto", "go on without a cgroup that may not be made, if no limit is asked for: true, false, or auto, "+
		"for an ordinary user and in a user namespace")
	showVersion := f.Bool("version", false, "show the version")
	f.BoolVar(showVersion, "v", false, "show the version")
	if err := f.parse(args); err != nil {
		return err
	}
	switch {
	case *showVersion:
		_, err := fmt.Fprintf(c.out, "berth-runtime version %s\ncommit: %s\nspec: %s\n", version, commit, specs.Version)
		return err
	case c.logFormat != "text" && c.logFormat != "json":
		return invalid("--log-format %q is neither text nor json", c.logFormat)
	case c.rootless != "true" && c.rootless != "false" && c.rootless != "auto":
		return invalid("--rootless %q is neither true nor false nor auto", c.rootless)
	case f.NArg() == 0 || f.Arg(0) == "help" && f.NArg() == 1:
		return c.help(f)
	}
	name, rest := f.Arg(0), f.Args()[1:]
	if name == "help" {
		name, rest = rest[0], []string{"--help"}
	}
	table := verbs()
	i := slices.IndexFunc(table, func(v verb) bool { return v.name == name })
	if i < 0 {
		return invalid("%q is not a command; see berth-runtime help", name)
	}
	return table[i].run(c, rest)
}

func (c *cli) help(f *flags) error {
	var b strings.Builder
	b.WriteString("usage: berth-runtime [GLOBAL FLAGS] COMMAND [FLAGS] …\n\ncommands:\n")
	for _, v := range verbs() {
		fmt.Fprintf(&b, "  %-10s %-20s %s\n", v.name, v.args, v.help)
	}
	b.WriteString("\nglobal flags:\n")
	f.SetOutput(&b)
	f.PrintDefaults()
	_, err := io.WriteString(c.out, b.String())
	return err
}

// complain writes an error where the caller looks for it: containerd and podman read the log's last line.
func (c *cli) complain(err error) {
	fmt.Fprintf(os.Stderr, "berth-runtime: %v\n", err)
	if c.logFile != "" {
		c.log("error", err.Error())
	}
}

// warn says what will be less than was asked for: to the log or, where there is none, to a person at a terminal or one who asks for
// it. Standard error is otherwise the container's own, and what is written to it would stand in the container's logs.
func (c *cli) warn(list []string) {
	for _, w := range list {
		switch {
		case c.logFile != "":
			c.log("warning", w)
		case c.debug || tty.IsTerminal(2):
			fmt.Fprintf(os.Stderr, "berth-runtime: warning: %s\n", w)
		}
	}
}

func (c *cli) log(level, text string) {
	f, err := os.OpenFile(c.logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		fmt.Fprintf(os.Stderr, "berth-runtime: %v\n", err)
		return
	}
	defer f.Close()
	now := time.Now().UTC().Format(time.RFC3339)
	if c.logFormat == "json" {
		line, _ := json.Marshal(map[string]string{"level": level, "msg": text, "time": now})
		_, _ = f.Write(append(line, '\n'))
		return
	}
	_, _ = fmt.Fprintf(f, "time=%q level=%s msg=%q\n", now, level, text)
}

func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && (os.Geteuid() != 0 || linux.InUserNamespace()) {
		return filepath.Join(dir, "berth-runtime")
	}
	return "/run/berth-runtime"
}

// filters is the directory of compiled seccomp filters; no container can have its name.
func (c *cli) filters() string { return filepath.Join(c.root, "@filters") }

// dir is the directory of a container.
func (c *cli) dir(id string) (string, error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	return filepath.Join(c.root, id), nil
}

// checkID refuses what is not a plain name: it becomes a part of paths (buildkit's CVE-2026-33747).
func checkID(id string) error {
	ok := id != "" && id != "." && id != ".." && len(id) <= 255
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r))
	}
	if !ok {
		return invalid("%q cannot be a container's id", id)
	}
	return nil
}

// load reads the state of a container.
func (c *cli) load(id string) (*ocirun.State, string, error) {
	dir, err := c.dir(id)
	if err != nil {
		return nil, "", err
	}
	if err := ownDir(dir); err != nil {
		return nil, "", fmt.Errorf("container %q: %w", id, err)
	}
	st, err := ocirun.ReadState(dir)
	if err != nil {
		return nil, "", fmt.Errorf("container %q: %w", id, err)
	}
	if g := st.CgroupPath; st.ID != id || st.Pid <= 0 || st.StartTime == 0 || g != "" && (g == "/" || !path.IsAbs(g) || path.Clean(g) != g) {
		return nil, "", fmt.Errorf("container %q: state file %q is damaged: it is not of process %d, in group %q, of container %q", id,
			filepath.Join(dir, ocirun.StateFile), st.Pid, g, st.ID)
	}
	return st, dir, nil
}

// ownDir refuses the directory of somebody else, who could have written there which process is to be killed.
func ownDir(dir string) error {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	switch euid := uint32(os.Geteuid()); {
	case err == unix.ENOENT || err == unix.ENOTDIR:
		return nil // and so is its state
	case err != nil:
		return &fs.PathError{Op: "lstat", Path: dir, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%q is no directory: %w", dir, errdefs.ErrInvalidArgument)
	case st.Uid != euid && st.Uid != 0 || st.Mode&0o022 != 0:
		return fmt.Errorf("its directory %q belongs to user %d and has mode %04o: others can say there what it is; run the command as that user: %w",
			dir, st.Uid, st.Mode&0o7777, errdefs.ErrPermissionDenied)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// flags is a flag.FlagSet whose errors are ours to show.
type flags struct {
	*flag.FlagSet
	usage string
}

func newFlags(name, usage string) *flags {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return &flags{f, usage}
}

func (f *flags) parse(args []string) error {
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "usage: %s %s\n", f.Name(), f.usage)
		f.SetOutput(os.Stderr)
		f.PrintDefaults()
		return exitStatus(0)
	}
	if err != nil {
		return invalid("%s: %v", f.Name(), err)
	}
	return nil
}

// parseAll is parse where flags may come after the other arguments, too, as in "delete ID --force". What follows -- is no flag.
func (f *flags) parseAll(args []string) error {
	var others []string
	for {
		if err := f.parse(args); err != nil {
			return err
		}
		rest := f.Args()
		if n := len(args) - len(rest); len(rest) == 0 || n > 0 && args[n-1] == "--" {
			return f.parse(slices.Concat([]string{"--"}, others, rest))
		}
		others, args = append(others, rest[0]), rest[1:]
	}
}

// id takes the container's id from the arguments, of which there are at least one and at most most; 0: what comes after the id belongs
// to somebody else.
func (f *flags) id(args []string, most int) (string, error) {
	parse := f.parseAll
	if most == 0 {
		parse = f.parse
	}
	if err := parse(args); err != nil {
		return "", err
	}
	if f.NArg() < 1 {
		return "", invalid("%s: the container's id is missing", f.Name())
	}
	if most > 0 && f.NArg() > most {
		return "", invalid("%s: there are more arguments than %s", f.Name(), f.usage)
	}
	return f.Arg(0), checkID(f.Arg(0))
}

// both defines a flag under two names.
func (f *flags) both(p *string, long, short, value, help string) {
	f.StringVar(p, long, value, help)
	f.StringVar(p, short, value, help)
}

func (f *flags) bothBool(p *bool, long, short, help string) {
	f.BoolVar(p, long, false, help)
	f.BoolVar(p, short, false, help)
}

// words is a flag that can be given several times.
type words []string

func (w *words) String() string { return strings.Join(*w, ",") }

// Set adds a word.
func (w *words) Set(s string) error {
	*w = append(*w, s)
	return nil
}
