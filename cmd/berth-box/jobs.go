package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// The interpreter runs `cmd &` as a goroutine and calls it g1, g2 … in `$!`. To let `kill $!` reach a real process,
// numberJobs puts an assignment that counts jobs before every background statement of the main shell; the copy of
// the variables the goroutine runs with then names the job whose commands it starts.
//
//	sleep 9 &   becomes   BERTH_JOB_=$((BERTH_JOB_+1)); { BERTH_IN_JOB_=$BERTH_JOB_; (sleep 9); box:end $?; } &
const (
	jobCounter = "BERTH_JOB_"
	jobMarker  = "BERTH_IN_JOB_"
	jobEnd     = hostPrefix + "end"
)

// jobs knows, for each background job, the process it is running now, whether it was killed and whether it is over.
type jobs struct {
	mu      sync.Mutex
	pid     map[int]int
	dead    map[int]syscall.Signal
	over    map[int]bool
	changed chan struct{} // closed and renewed when a job ends
}

func newJobs() *jobs {
	return &jobs{pid: map[int]int{}, dead: map[int]syscall.Signal{}, over: map[int]bool{}, changed: make(chan struct{})}
}

// end notes that a job is over.
func (j *jobs) end(job int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.over[job] = true
	close(j.changed)
	j.changed = make(chan struct{})
}

// wait waits until the jobs are over, and reports true when a trapped signal came first.
func (j *jobs) wait(from, to int, trap <-chan struct{}) bool {
	for job := max(1, from); job <= to; {
		j.mu.Lock()
		over, changed := j.over[job], j.changed
		j.mu.Unlock()
		if over {
			job++
			continue
		}
		select {
		case <-changed:
		case <-trap:
			return true
		}
	}
	return false
}

// jobOf is the number of the background job a command runs in, 0 in the main shell.
func jobOf(hc interp.HandlerContext) int {
	return max(0, number(hc.Env.Get(jobMarker).String()))
}

func (j *jobs) started(job, pid int) {
	if job == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pid[job] = pid
	if sig, ok := j.dead[job]; ok { // killed while it was being started
		_ = syscall.Kill(pid, sig)
	}
}

func (j *jobs) idle(job int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.pid, job)
}

func (j *jobs) killed(job int) (syscall.Signal, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	sig, ok := j.dead[job]
	return sig, ok && job != 0
}

// kill handles `kill [-SIG] gN …` for the jobs among the operands and returns what is left for the kill command.
func (j *jobs) kill(args []string) ([]string, error) {
	sig := syscall.SIGTERM
	rest := []string{hostPrefix + "kill"}
	others := false
	for i := 1; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-s" && i+1 < len(args):
			i++
			sig = signalNumber(args[i])
			rest = append(rest, a, args[i])
		case strings.HasPrefix(a, "-"):
			if n := signalNumber(a[1:]); n != 0 {
				sig = n
			}
			rest = append(rest, a)
		case len(a) > 1 && (a[0] == 'g' || a[0] == '%') && number(a[1:]) > 0:
			if err := j.signal(number(a[1:]), sig); err != nil {
				fmt.Fprintf(os.Stderr, "sh: kill: %s: %v\n", a, err)
				return []string{"false"}, nil
			}
		default:
			others = true
			rest = append(rest, a)
		}
	}
	if len(args) > 1 && !others && len(rest) < len(args) {
		return []string{"true"}, nil
	}
	return rest, nil
}

// signal sends to the process a job is running; signals that end a process also end the job.
func (j *jobs) signal(job int, sig syscall.Signal) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch sig {
	case syscall.SIGTERM, syscall.SIGKILL, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
		j.dead[job] = sig
	}
	if pid, ok := j.pid[job]; ok {
		return syscall.Kill(pid, sig)
	}
	return nil
}

// numberJobs rewrites the background statements of the main shell as the comment above shows. Subshells and the
// bodies of background statements are left alone: their jobs are not the main shell's.
func numberJobs(stmts []*syntax.Stmt) []*syntax.Stmt {
	var out []*syntax.Stmt
	for _, st := range stmts {
		if st.Background {
			out = append(out, ours(st.Pos(), jobCounter+"=$(("+jobCounter+"+1))"))
			inner := *st
			inner.Background = false
			body := &syntax.Stmt{Position: st.Position, Cmd: &syntax.Subshell{Lparen: st.Pos(), Rparen: st.End(),
				Stmts: []*syntax.Stmt{&inner}}}
			block := &syntax.Block{Lbrace: st.Pos(), Rbrace: st.End(), Stmts: []*syntax.Stmt{
				ours(st.Pos(), jobMarker+"=$"+jobCounter), body, ours(st.Pos(), jobEnd+" $?")}}
			out = append(out, &syntax.Stmt{Position: st.Position, Semicolon: st.Semicolon, Background: true, Cmd: block})
			continue
		}
		switch c := st.Cmd.(type) {
		case *syntax.Block:
			c.Stmts = numberJobs(c.Stmts)
		case *syntax.IfClause:
			for clause := c; clause != nil; clause = clause.Else {
				clause.Cond = numberJobs(clause.Cond)
				clause.Then = numberJobs(clause.Then)
			}
		case *syntax.WhileClause:
			c.Cond, c.Do = numberJobs(c.Cond), numberJobs(c.Do)
		case *syntax.ForClause:
			c.Do = numberJobs(c.Do)
		case *syntax.CaseClause:
			for _, item := range c.Items {
				item.Stmts = numberJobs(item.Stmts)
			}
		case *syntax.FuncDecl:
			c.Body = numberJobs([]*syntax.Stmt{c.Body})[0]
		}
		out = append(out, st)
	}
	return out
}

// ours parses one statement of our own, which always parses, and places it.
func ours(pos syntax.Pos, text string) *syntax.Stmt {
	f, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil || len(f.Stmts) != 1 {
		panic(fmt.Sprintf("%q does not parse: %v", text, err))
	}
	st := f.Stmts[0]
	st.Position = pos
	return st
}
