package ocirun

import (
	"fmt"
	"slices"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// schedPolicies are the policies by their numbers (sched(7)); the fifth was never merged into Linux.
var schedPolicies = [...]specs.LinuxSchedulerPolicy{specs.SchedOther, specs.SchedFIFO, specs.SchedRR, specs.SchedBatch,
	specs.SchedISO, specs.SchedIdle, specs.SchedDeadline}

// schedFlags are the flags by their bits (sched_setattr(2)).
var schedFlags = [...]specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork, specs.SchedFlagReclaim, specs.SchedFlagDLOverrun,
	specs.SchedFlagKeepPolicy, specs.SchedFlagKeepParams, specs.SchedFlagUtilClampMin, specs.SchedFlagUtilClampMax}

// ioClasses are the classes by their numbers less one (ioprio_set(2)).
var ioClasses = [...]specs.IOPriorityClass{specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE}

// checkScheduler refuses what the kernel would put right or pass over without a word.
func checkScheduler(sc *specs.Scheduler) error {
	if sc == nil {
		return nil
	}
	const lowest, highest = -20, 19
	nice := sc.Policy == specs.SchedOther || sc.Policy == specs.SchedBatch
	switch {
	case nice && (sc.Nice < lowest || sc.Nice > highest):
		return invalid("scheduler: nice %d is not between %d and %d", sc.Nice, lowest, highest)
	case sc.Policy != specs.SchedDeadline && (sc.Runtime != 0 || sc.Deadline != 0 || sc.Period != 0):
		return invalid("scheduler: runtime, deadline and period are for %s, not for %q", specs.SchedDeadline, sc.Policy)
	}
	return nil
}

// scheduling adds scheduler and I/O priority (config.md, "Linux Process").
func (e *execution) scheduling(p *linux.Program) error {
	if sc := e.process.Scheduler; sc != nil {
		policy := slices.Index(schedPolicies[:], sc.Policy)
		if policy < 0 {
			return fmt.Errorf("scheduler policy %q is unknown: %w", sc.Policy, errdefs.ErrInvalidArgument)
		}
		a := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: uint32(policy), Nice: sc.Nice, Priority: uint32(sc.Priority),
			Runtime: sc.Runtime, Deadline: sc.Deadline, Period: sc.Period}
		for _, f := range sc.Flags {
			bit := slices.Index(schedFlags[:], f)
			if bit < 0 {
				return fmt.Errorf("scheduler flag %q is unknown: %w", f, errdefs.ErrInvalidArgument)
			}
			a.Flags |= 1 << bit
		}
		if e.sibling && (sc.Policy == specs.SchedDeadline || a.Flags&unix.SCHED_FLAG_RESET_ON_FORK != 0) {
			// A fork stands between; what is only given up by it is set again by any process.
			late := *a
			e.lateSched = &late
			a.Flags &^= unix.SCHED_FLAG_RESET_ON_FORK
		}
		if e.lateDeadline() {
			return e.ioPriority(p)
		}
		p.Step("set the scheduler")
		p.Call(unix.SYS_SCHED_SETATTR, linux.N(0), linux.Ptr(a), linux.N(0))
	}
	return e.ioPriority(p)
}

func (e *execution) ioPriority(p *linux.Program) error {
	if io := e.process.IOPriority; io != nil {
		class := slices.Index(ioClasses[:], io.Class)
		if class < 0 {
			return fmt.Errorf("I/O priority class %q is unknown: %w", io.Class, errdefs.ErrInvalidArgument)
		}
		const whoProcess, classShift = 1, 13
		p.Step("set the I/O priority")
		p.Call(unix.SYS_IOPRIO_SET, linux.N(whoProcess), linux.N(0), linux.N((class+1)<<classShift|io.Priority))
	}
	return nil
}

// personality adds the execution domain (personality(2)).
func personality(p *linux.Program, l *specs.LinuxPersonality) error {
	if l == nil {
		return nil
	}
	domain := 0
	if l.Domain == specs.PerLinux32 {
		domain = 8
	}
	if l.Domain != specs.PerLinux && domain == 0 || len(l.Flags) > 0 {
		return fmt.Errorf("personality %q with flags %q is unknown: %w", l.Domain, l.Flags, errdefs.ErrInvalidArgument)
	}
	p.Step("set the personality")
	p.Call(unix.SYS_PERSONALITY, linux.N(domain))
	return nil
}
