package seccomp

import (
	"runtime"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// arch is an architecture as seccomp sees it: x32 is a range of numbers of x86-64.
type arch struct {
	name  specs.Arch
	audit uint32 // what the kernel reports
	calls *[callCount]uint16
	word  int // bits of an argument
}

const (
	// x32Bit marks the numbers of x32 calls on x86-64.
	x32Bit = 0x40000000
	// armPrivate is where 32-bit ARM's own calls begin. In its table they begin at armPrivateCell.
	armPrivate     = 0xf0000
	armPrivateCell = 0xf000
	noCall         = 0xffff
)

// findArch gives the architecture of that name, ok is false where this package has no numbers for it.
func findArch(name specs.Arch) (a arch, ok bool) {
	switch name {
	case specs.ArchX86_64:
		return arch{name, unix.AUDIT_ARCH_X86_64, &amd64Calls, 64}, true
	case specs.ArchX32:
		// Its programs have 32-bit words, whatever else they leave in the registers.
		return arch{name, unix.AUDIT_ARCH_X86_64, &amd64Calls, 32}, true
	case specs.ArchX86:
		return arch{name, unix.AUDIT_ARCH_I386, &i386Calls, 32}, true
	case specs.ArchAARCH64:
		return arch{name, unix.AUDIT_ARCH_AARCH64, &arm64Calls, 64}, true
	case specs.ArchARM:
		return arch{name, unix.AUDIT_ARCH_ARM, &armCalls, 32}, true
	}
	return arch{}, false
}

// knownArch reports whether the specification has the name.
func knownArch(name specs.Arch) bool {
	switch name {
	case specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS,
		specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
		specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X, specs.ArchPARISC,
		specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB:
		return true
	}
	return false
}

// nativeArch is the one this program was built for, "" where there are no numbers for it.
func nativeArch() specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return specs.ArchX86_64
	case "386":
		return specs.ArchX86
	case "arm64":
		return specs.ArchAARCH64
	case "arm":
		return specs.ArchARM
	}
	return ""
}

// findCall gives the index of a system call in the tables, -1 for an unknown name.
func findCall(name string) int {
	lo, hi := 0, callCount
	for lo < hi {
		mid := (lo + hi) / 2
		start := 0
		if mid > 0 {
			start = int(callEnds[mid-1])
		}
		switch c := strings.Compare(callNames[start:callEnds[mid]], name); {
		case c == 0:
			return mid
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return -1
}

// numbers gives the numbers under which a call can be made, none where the architecture does not have it.
func (a *arch) numbers(call int) (nrs []uint32) {
	n := uint32(a.calls[call])
	switch {
	case n == noCall:
		return nil
	case a.name == specs.ArchX32 && x32OwnCalls[call] != noCall:
		return []uint32{x32Bit | n, x32Bit | uint32(x32OwnCalls[call])}
	case a.name == specs.ArchX32:
		n |= x32Bit
	case a.name == specs.ArchARM && n >= armPrivateCell:
		n = armPrivate | (n - armPrivateCell)
	}
	return []uint32{n}
}

// muxBy says by which call, and by which value of its first argument, 386 also reaches a call.
func (a *arch) muxBy(call int) (through string, number uint32, ok bool) {
	n := uint32(i386MuxCalls[call])
	switch {
	case n == noCall || a.name != specs.ArchX86:
		return "", 0, false
	case n >= 0x100:
		return "ipc", n & 0xff, true
	}
	return "socketcall", n, true
}
