package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Known is what Compile understands, by the names of the specification.
type Known struct {
	Actions   []specs.LinuxSeccompAction
	Operators []specs.LinuxSeccompOperator
	Arches    []specs.Arch // those of which there are system call numbers
	Flags     []specs.LinuxSeccompFlag
	Supported []specs.LinuxSeccompFlag // by this kernel
}

// Knows asks the kernel which of the flags it supports.
func Knows() Known {
	k := Known{
		Actions: []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread,
			specs.ActLog, specs.ActNotify, specs.ActTrace, specs.ActTrap},
		Operators: []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual,
			specs.OpLessThan, specs.OpMaskedEqual, specs.OpNotEqual},
		Arches: []specs.Arch{specs.ArchAARCH64, specs.ArchARM, specs.ArchX32, specs.ArchX86, specs.ArchX86_64},
		Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv,
			"SECCOMP_FILTER_FLAG_TSYNC"},
	}
	for _, f := range k.Flags {
		bits, _ := parseFlag(f)
		if bits == unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV {
			bits |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER // without which it is invalid
		}
		// A flag that there is gets as far as the program, of which there is none.
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(bits), 0)
		if errno == unix.EFAULT {
			k.Supported = append(k.Supported, f)
		}
	}
	return k
}
