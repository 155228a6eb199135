package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// shellOptions are the options of sh itself, before the script or its name.
type shellOptions struct {
	command     string // -c
	hasCommand  bool
	interactive bool     // -i
	stdin       bool     // -s
	set         []string // what `set` takes: -e, -u, -x, -o pipefail …
	rest        []string
}

// parseShellOptions reads sh's own arguments. They differ from other commands' in that `-c` takes the first operand
// and that letters of `set` may be mixed in ("sh -ec 'x'").
func parseShellOptions(args []string) (shellOptions, error) {
	var o shellOptions
	i := 0
	for ; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			i++
			break
		}
		if a == "--login" || a == "--norc" || a == "--noprofile" || a == "--posix" {
			continue
		}
		if len(a) < 2 || a[0] != '-' && a[0] != '+' {
			break
		}
		for _, letter := range a[1:] {
			switch letter {
			case 'c':
				o.hasCommand = true
			case 'i':
				o.interactive = true
			case 's':
				o.stdin = true
			case 'l':
			case 'o':
				i++
				if i >= len(args) {
					return o, errors.New("-o requires an argument")
				}
				o.set = append(o.set, a[:1]+"o", args[i])
			case 'e', 'u', 'x', 'n', 'f', 'a':
				o.set = append(o.set, a[:1]+string(letter))
			default:
				return o, fmt.Errorf("invalid option -- '%c'", letter)
			}
		}
	}
	o.rest = args[i:]
	if o.hasCommand {
		if len(o.rest) == 0 {
			return o, errors.New("-c requires an argument")
		}
		o.command, o.rest = o.rest[0], o.rest[1:]
	}
	return o, nil
}

// hostPrefix marks a command that call has redirected past the interpreter's own builtins to exec.
const hostPrefix = "box:"

// sh is a running shell: the interpreter and what it asks its host to do.
type sh struct {
	runner *interp.Runner
	procs  *processes
	traps  *traps
	jobs   *jobs
	// replace holds the positions of the calls that may take this process's place: `exec x` outside any subshell,
	// and the single command of a one-command script.
	replace map[syntax.Pos]bool
	single  syntax.Pos
}

// shell runs sh and returns its exit code.
func shell(args []string, login bool) int {
	o, err := parseShellOptions(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sh: %v\n", err)
		return 2
	}
	name, params := "sh", []string(nil)
	var source []byte
	switch {
	case o.hasCommand:
		source = []byte(o.command)
		if len(o.rest) > 0 {
			name, params = o.rest[0], o.rest[1:]
		}
	case o.stdin || len(o.rest) == 0:
		params = o.rest
		if o.interactive || login || term.IsTerminal(0) {
			return runShell(o, name, params, nil, true)
		}
		// A script on standard input is read whole: its commands must not eat it by chance, nor it their input.
		if source, err = io.ReadAll(os.Stdin); err != nil {
			fmt.Fprintf(os.Stderr, "sh: %v\n", err)
			return 1
		}
	default:
		name, params = o.rest[0], o.rest[1:]
		if source, err = os.ReadFile(name); err != nil {
			fmt.Fprintf(os.Stderr, "sh: %s\n", sentence(err))
			return 127
		}
	}
	return runShell(o, name, params, source, o.interactive && !o.hasCommand)
}

func runShell(o shellOptions, name string, params []string, source []byte, interactive bool) int {
	s := &sh{procs: startProcesses(), traps: &traps{}, jobs: newJobs(), replace: map[syntax.Pos]bool{}}
	set := append(append(o.set, "--"), params...)
	var err error
	s.runner, err = interp.New(
		interp.Interactive(interactive),
		interp.StdIO(os.Stdin, os.Stdout, os.Stderr),
		interp.Params(set...),
		interp.CallHandler(s.call),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return s.exec }),
	)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sh: %v\n", err)
		return 2
	}
	if os.Getpid() == 1 {
		s.traps.watchInit()
	}
	if interactive {
		return s.interactive()
	}
	return s.script(name, source)
}

// script parses the whole source and runs it.
func (s *sh) script(name string, source []byte) int {
	prog, err := syntax.NewParser(syntax.KeepComments(false)).Parse(bytes.NewReader(source), name)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sh: %v\n", err)
		return 2
	}
	s.prepare(prog)
	return s.status(s.runner.Run(context.Background(), prog))
}

// status turns what Run returned into an exit code.
func (s *sh) status(err error) int {
	if err == nil {
		return 0
	}
	if st, ok := errors.AsType[interp.ExitStatus](err); ok {
		return int(st)
	}
	fmt.Fprintf(os.Stderr, "sh: %v\n", err)
	return 1
}

// prepare looks through a parsed program before it runs: it numbers background jobs and finds the calls that may
// replace this process.
func (s *sh) prepare(prog *syntax.File) {
	prog.Stmts = numberJobs(prog.Stmts)
	if len(prog.Stmts) == 1 {
		st := prog.Stmts[0]
		if call, ok := st.Cmd.(*syntax.CallExpr); ok && !st.Background && !st.Negated && len(call.Args) > 0 {
			s.single = call.Pos()
		}
	}
	syntax.Walk(prog, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Subshell, *syntax.CmdSubst, *syntax.ProcSubst, *syntax.FuncDecl, *syntax.CoprocClause:
			return false
		case *syntax.BinaryCmd:
			return n.Op != syntax.Pipe && n.Op != syntax.PipeAll
		case *syntax.Stmt:
			return !n.Background
		case *syntax.CallExpr:
			if len(n.Args) > 1 && n.Args[0].Lit() == "exec" {
				s.replace[n.Pos()] = true
			}
		}
		return true
	})
}

// call sees every simple command before it runs: pending traps go first, and the few builtins that need the
// host's processes or signals are taken over here.
func (s *sh) call(ctx context.Context, args []string) ([]string, error) {
	hc := interp.HandlerCtx(ctx)
	job := jobOf(hc)
	if sig, killed := s.jobs.killed(job); killed && args[0] != jobEnd {
		return []string{"exit", strconv.Itoa(128 + int(sig))}, nil
	}
	if job == 0 {
		if code, _, ok := s.traps.next(); ok {
			return []string{"eval", code + "\n" + quoted(args)}, nil
		}
	}
	switch args[0] {
	case "trap":
		return s.traps.set(args)
	case "wait":
		from, to := waitedFor(hc, args[1:])
		if job == 0 && s.jobs.wait(from, to, s.traps.arrived()) {
			if code, sig, ok := s.traps.next(); ok { // POSIX: wait ends with 128 and more
				return []string{"eval", fmt.Sprintf("%s\n(exit %d)", code, 128+int(sig))}, nil
			}
		}
	case "kill":
		return s.jobs.kill(args)
	case "umask", "ulimit":
		// The interpreter reserves these names without implementing them; exec knows them with a prefix.
		return append([]string{hostPrefix + args[0]}, args[1:]...), nil
	case "exec":
		if len(args) > 1 && s.replace[hc.Pos] {
			return nil, s.become(hc, args[1:])
		}
	}
	return args, nil
}

// exec runs what is neither a function nor a builtin of the interpreter.
func (s *sh) exec(ctx context.Context, args []string) error {
	hc := interp.HandlerCtx(ctx)
	switch name, _ := strings.CutPrefix(args[0], hostPrefix); {
	case name == args[0]:
	case args[0] == jobEnd:
		s.jobs.end(jobOf(hc))
		if code := number(args[1]); code > 0 {
			return interp.ExitStatus(code)
		}
		return nil
	case name == "umask":
		return umask(hc, args[1:])
	case name == "ulimit":
		return s.procs.ulimit(hc, args[1:])
	default:
		args = append([]string{name}, args[1:]...)
	}
	path, err := interp.LookPathDir(hc.Dir, hc.Env, args[0])
	if err != nil {
		return notFound(hc, args[0])
	}
	if s.single.IsValid() && hc.Pos == s.single && !s.traps.any() {
		if err := s.become(hc, args); err != nil {
			return err
		}
	}
	code, err := s.run(hc, path, args)
	if errors.Is(err, unix.ENOEXEC) {
		// POSIX: a file the kernel cannot execute is a script for a new shell.
		self, serr := os.Executable()
		if serr != nil {
			return serr
		}
		code, err = s.run(hc, self, append([]string{"sh", path}, args[1:]...))
	}
	if err != nil {
		fmt.Fprintf(hc.Stderr, "sh: %s: %v\n", args[0], err)
		return interp.ExitStatus(126)
	}
	if code != 0 {
		return interp.ExitStatus(code)
	}
	return nil
}

// waitedFor is the range of jobs a wait is for.
func waitedFor(hc interp.HandlerContext, operands []string) (from, to int) {
	if len(operands) == 1 && strings.HasPrefix(operands[0], "g") {
		n := max(0, number(operands[0][1:]))
		return n, n
	}
	return 1, max(0, number(hc.Env.Get(jobCounter).String()))
}

// notFound tells a missing command (127) from one that may not be executed (126).
func notFound(hc interp.HandlerContext, name string) error {
	if strings.Contains(name, "/") {
		file := name
		if !strings.HasPrefix(file, "/") {
			file = hc.Dir + "/" + name
		}
		if fi, err := os.Stat(file); err == nil {
			reason := "permission denied"
			if fi.IsDir() {
				reason = "is a directory"
			}
			fmt.Fprintf(hc.Stderr, "sh: %s: %s\n", name, reason)
			return interp.ExitStatus(126)
		}
	}
	fmt.Fprintf(hc.Stderr, "sh: %s: not found\n", name)
	return interp.ExitStatus(127)
}

// become replaces this process by the command. It returns only when it could not: with a nil error when the command
// must be run as a child instead (its streams are not files), else with the shell's exit status.
func (s *sh) become(hc interp.HandlerContext, args []string) error {
	path, err := interp.LookPathDir(hc.Dir, hc.Env, args[0])
	if err != nil {
		return notFound(hc, args[0])
	}
	var files [3]*os.File
	for i, stream := range []any{hc.Stdin, hc.Stdout, hc.Stderr} {
		f, ok := stream.(*os.File)
		if !ok || f == nil {
			return nil
		}
		files[i] = f
	}
	if err := os.Chdir(hc.Dir); err != nil {
		return err
	}
	// First away from 0–2, so that placing one does not overwrite another, then into place.
	var away [3]int
	for i, f := range files {
		if away[i], err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 10); err != nil {
			return err
		}
	}
	for i, fd := range away {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return err
		}
	}
	signal.Reset(s.traps.caught()...)
	err = syscall.Exec(path, args, environ(hc))
	fmt.Fprintf(os.Stderr, "sh: %s: %v\n", args[0], err)
	if errors.Is(err, unix.ENOENT) {
		return interp.ExitStatus(127)
	}
	if errors.Is(err, unix.ENOEXEC) {
		return nil
	}
	return interp.ExitStatus(126)
}

// quoted makes the words safe to be parsed again.
func quoted(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		q, err := syntax.Quote(a, syntax.LangBash)
		if err != nil { // a NUL byte, which no argument can hold
			q = "''"
		}
		words[i] = q
	}
	return strings.Join(words, " ")
}
