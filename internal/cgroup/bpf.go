package cgroup

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// Devices on v2 are guarded by a program that the kernel runs for each open and mknod (linux/bpf.h, struct
// bpf_cgroup_dev_ctx: access in the upper and type in the lower half of the first word, then major and minor):
//
//	r2 = type   r3 = access asked for   r4 = major   r5 = minor   r6 = 0, what is allowed
//	for each rule, from the first:
//	        r7 = (r2 ^ type) | (r4 ^ major) | (r5 ^ minor)     without those that are left open
//	        if r7 != 0 goto next
//	        r6 |= access                                       or r6 &= ~access
//	next:
//	r0 = (access asked for & ~r6) == 0
//
// Each kind of access is thus decided by the last rule about it, and an open for reading and writing needs both.
// The program is attached so that those of the groups above apply as well.

// instruction is struct bpf_insn.
type instruction struct {
	op     uint8
	regs   uint8 // source in the upper, destination in the lower half
	offset int16
	imm    int32
}

// A comparison of r4 itself would tell the kernel's verifier its value on one of the two ways on, and it would follow
// each way by itself through all later rules.
const (
	bpfLoadWord  = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	bpfMoveImm   = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	bpfMoveReg   = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	bpfAndImm    = unix.BPF_ALU64 | unix.BPF_AND | unix.BPF_K
	bpfAndReg    = unix.BPF_ALU64 | unix.BPF_AND | unix.BPF_X
	bpfOrImm     = unix.BPF_ALU64 | unix.BPF_OR | unix.BPF_K
	bpfXorImm    = unix.BPF_ALU64 | unix.BPF_XOR | unix.BPF_K
	bpfShiftImm  = unix.BPF_ALU64 | unix.BPF_RSH | unix.BPF_K
	bpfMoveReg32 = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X
	bpfOrReg32   = unix.BPF_ALU | unix.BPF_OR | unix.BPF_X
	bpfXorImm32  = unix.BPF_ALU | unix.BPF_XOR | unix.BPF_K
	bpfJumpNe    = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
	bpfJumpEq    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	bpfExit      = unix.BPF_JMP | unix.BPF_EXIT
	kindBlock    = 1 // BPF_DEVCG_DEV_BLOCK
	kindChar     = 2 // BPF_DEVCG_DEV_CHAR
	maxRuleCount = 4096
)

func deviceProgram(rules []deviceRule) ([]instruction, error) {
	if len(rules) > maxRuleCount {
		return nil, badDevice("%d rules are too many, the kernel takes %d", len(rules), maxRuleCount)
	}
	reg := func(src, dst uint8) uint8 { return src<<4 | dst }
	p := []instruction{
		{bpfLoadWord, reg(1, 2), 0, 0},
		{bpfMoveReg, reg(2, 3), 0, 0},
		{bpfAndImm, reg(0, 2), 0, 0xffff},
		{bpfShiftImm, reg(0, 3), 0, 16},
		{bpfLoadWord, reg(1, 4), 4, 0},
		{bpfLoadWord, reg(1, 5), 8, 0},
		{bpfMoveImm, reg(0, 6), 0, 0},
	}
	for _, r := range rules {
		kind := uint32(kindChar)
		if r.kind == 'b' {
			kind = kindBlock
		}
		p = append(p, instruction{bpfMoveReg32, reg(2, 7), 0, 0}, instruction{bpfXorImm32, reg(0, 7), 0, int32(kind)})
		for i, number := range [...]int64{r.major, r.minor} {
			if number != wild {
				p = append(p, instruction{bpfMoveReg32, reg(uint8(4+i), 8), 0, 0},
					instruction{bpfXorImm32, reg(0, 8), 0, int32(uint32(number))}, instruction{bpfOrReg32, reg(8, 7), 0, 0})
			}
		}
		p = append(p, instruction{bpfJumpNe, reg(0, 7), 1, 0})
		if r.allow {
			p = append(p, instruction{bpfOrImm, reg(0, 6), 0, int32(r.access)})
		} else {
			p = append(p, instruction{bpfAndImm, reg(0, 6), 0, int32(^r.access & accessAll)})
		}
	}
	return append(p,
		instruction{bpfXorImm, reg(0, 6), 0, accessAll},
		instruction{bpfAndReg, reg(6, 3), 0, 0},
		instruction{bpfMoveImm, reg(0, 0), 0, 1},
		instruction{bpfJumpEq, reg(0, 3), 1, 0},
		instruction{bpfMoveImm, reg(0, 0), 0, 0},
		instruction{bpfExit, 0, 0, 0},
	), nil
}

// setDeviceProgram puts the program for the rules in the place of those that are attached to the group.
func (g *Group) setDeviceProgram(rules []deviceRule, fresh bool) error {
	if set, err := reduceDevices(rules); fresh && err == nil && set.allow && len(set.except) == 0 {
		return nil // a new group may use everything
	}
	code, err := deviceProgram(rules)
	if err != nil {
		return err
	}
	dir, err := open(g.dir(&g.host.trees[0]), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	var old []uint32
	if !fresh {
		if old, err = attachedPrograms(dir); err != nil {
			return fmt.Errorf("list the attached programs: %w", err)
		}
	}
	prog, err := loadProgram(code)
	if errors.Is(err, unix.EPERM) && linux.InUserNamespace() {
		return nil // the host's root's to load; nobody can make a device in a user namespace, so the rules are kept without one
	}
	if err != nil {
		return fmt.Errorf("load a program: %w", err)
	}
	defer unix.Close(prog)
	if len(old) == 1 {
		return replaceProgram(dir, prog, old[0])
	}
	if err := attachProgram(dir, prog, 0, 0); err != nil {
		return fmt.Errorf("attach a program: %w", err)
	}
	// With several programs all must allow; the new one already holds while the old ones go.
	for _, id := range old {
		if err := withProgram(id, func(fd int) error { return detachProgram(dir, fd) }); err != nil {
			return fmt.Errorf("detach a program: %w", err)
		}
	}
	return nil
}

func replaceProgram(dir, prog int, old uint32) error {
	err := withProgram(old, func(fd int) error { return attachProgram(dir, prog, unix.BPF_F_REPLACE, fd) })
	if err != nil {
		return fmt.Errorf("replace a program: %w", err)
	}
	return nil
}

// The calls of bpf(2). Each attribute structure is the beginning of union bpf_attr that the command reads.

func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EAGAIN, unix.EINTR: // the verifier gives way to signals
		default:
			return -1, errno
		}
	}
}

func loadProgram(code []instruction) (int, error) {
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', 0}
	attr := struct {
		kind, count          uint32
		code, license        uint64
		logLevel, logSize    uint32
		log                  uint64
		kernelVersion, flags uint32
		name                 [16]byte
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code)),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	copy(attr.name[:], "berth_devices")
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(code)
	runtime.KeepAlive(&license)
	return fd, err
}

func attachProgram(dir, prog int, flags uint32, old int) error {
	attr := struct{ target, prog, kind, flags, replace uint32 }{uint32(dir), uint32(prog), unix.BPF_CGROUP_DEVICE,
		unix.BPF_F_ALLOW_MULTI | flags, uint32(old)}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

func detachProgram(dir, prog int) error {
	attr := struct{ target, prog, kind, flags uint32 }{uint32(dir), uint32(prog), unix.BPF_CGROUP_DEVICE, 0}
	_, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// attachedPrograms lists the ids of the group's own device programs.
func attachedPrograms(dir int) ([]uint32, error) {
	for size := 16; ; size *= 4 {
		ids := make([]uint32, size)
		attr := struct {
			target, kind, queryFlags, attachFlags uint32
			ids                                   uint64
			count, _                              uint32
		}{target: uint32(dir), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))),
			count: uint32(size)}
		_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		runtime.KeepAlive(ids)
		if errors.Is(err, unix.ENOSPC) && size < 1<<16 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return ids[:attr.count], nil
	}
}

// withProgram calls fn with a descriptor of the program id.
func withProgram(id uint32, fn func(fd int) error) error {
	attr := struct{ id, _, flags uint32 }{id: id}
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return fn(fd)
}
