package seccomp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Simulate evaluates the filter as the kernel does, for tests: arch is an AUDIT_ARCH_ value, nr the number of the
// system call. It returns the action with its data. A program that the kernel would not load kills.
func (f *Filter) Simulate(arch uint32, nr int32, args [6]uint64) uint32 {
	var data [64]byte
	order := binary.NativeEndian
	order.PutUint32(data[offNumber:], uint32(nr))
	order.PutUint32(data[offArch:], arch)
	for i, a := range args {
		order.PutUint64(data[offArgs+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc >= 0 && pc+1 <= len(f.Prog)/8; pc++ {
		i := f.Prog[8*pc:]
		k := order.Uint32(i[4:])
		taken := false
		switch order.Uint16(i) {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if k%4 != 0 || k > uint32(len(data)-4) {
				return unix.SECCOMP_RET_KILL_PROCESS
			}
			acc = order.Uint32(data[k:])
			continue
		case unix.BPF_RET | unix.BPF_K:
			return k
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= k
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(k)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			taken = acc == k
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			taken = acc >= k
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			taken = acc > k
		default:
			return unix.SECCOMP_RET_KILL_PROCESS
		}
		if taken {
			pc += int(i[2])
		} else {
			pc += int(i[3])
		}
	}
	return unix.SECCOMP_RET_KILL_PROCESS
}
