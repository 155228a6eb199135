package ocirun

import (
	"fmt"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var schedPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: unix.SCHED_NORMAL, specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR,
	specs.SchedBatch: unix.SCHED_BATCH, specs.SchedISO: 4, specs.SchedIdle: unix.SCHED_IDLE,
	specs.SchedDeadline: unix.SCHED_DEADLINE,
}

var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: unix.SCHED_FLAG_RESET_ON_FORK, specs.SchedFlagReclaim: unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun: unix.SCHED_FLAG_DL_OVERRUN, specs.SchedFlagKeepPolicy: unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams: unix.SCHED_FLAG_KEEP_PARAMS, specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

var ioClasses = map[specs.IOPriorityClass]int{
	specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3,
}

// scheduling adds scheduler and I/O priority (config.md, "Linux Process").
func (e *execution) scheduling(p *linux.Program) error {
	if sc := e.process.Scheduler; sc != nil {
		policy, there := schedPolicies[sc.Policy]
		if !there {
			return fmt.Errorf("scheduler policy %q is unknown: %w", sc.Policy, errdefs.ErrInvalidArgument)
		}
		a := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Nice: sc.Nice, Priority: uint32(sc.Priority),
			Runtime: sc.Runtime, Deadline: sc.Deadline, Period: sc.Period}
		for _, f := range sc.Flags {
			bit, there := schedFlags[f]
			if !there {
				return fmt.Errorf("scheduler flag %q is unknown: %w", f, errdefs.ErrInvalidArgument)
			}
			a.Flags |= bit
		}
		p.Step("set the scheduler")
		p.Call(unix.SYS_SCHED_SETATTR, linux.N(0), linux.Ptr(a), linux.N(0))
	}
	if io := e.process.IOPriority; io != nil {
		class, there := ioClasses[io.Class]
		if !there {
			return fmt.Errorf("I/O priority class %q is unknown: %w", io.Class, errdefs.ErrInvalidArgument)
		}
		const whoProcess, classShift = 1, 13
		p.Step("set the I/O priority")
		p.Call(unix.SYS_IOPRIO_SET, linux.N(whoProcess), linux.N(0), linux.N(class<<classShift|io.Priority))
	}
	return nil
}

// personality adds the execution domain (personality(2)).
func personality(p *linux.Program, l *specs.LinuxPersonality) error {
	if l == nil {
		return nil
	}
	domains := map[specs.LinuxPersonalityDomain]int{specs.PerLinux: 0, specs.PerLinux32: 8}
	domain, there := domains[l.Domain]
	if !there || len(l.Flags) > 0 {
		return fmt.Errorf("personality %q with flags %q is unknown: %w", l.Domain, l.Flags, errdefs.ErrInvalidArgument)
	}
	p.Step("set the personality")
	p.Call(unix.SYS_PERSONALITY, linux.N(domain))
	return nil
}
