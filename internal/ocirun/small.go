package ocirun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// Two programs of a few hundred bytes are executed in containers, from sealed memory: nothing of them lies in the container's
// files and nobody can change them. They take their orders from the start of their environment:
//
//	envp: R/path/of/program A=1 B=2 …     envp[1:] is the program's environment; R-32 is the report's descriptor
//
// They close the report and the descriptor after it (what a held process waited at) when the program is executed, and report
// {-2, errno} when they cannot execute the program: see linux.Program.
//
// The init is a container's first process, so that it costs a container neither memory nor start-up time. It shows as
// "/sbin/docker-init -- PROGRAM ARGS…", as Docker's does:
//
//	block all signals; fork
//	child:   own process group, the terminal's foreground; unblock; execve the program, or report why not; exit 127
//	parent:  for each signal: SIGCHLD   reap whoever ended; when it was the child, exit as it did (128+signal)
//	                          any other send it to the child
//
// The shield stands between this process and the container's program where this process runs from a file that could be
// written to. Until execve the child's /proc/self/exe is that file, and "/proc/self/exe" may be just what an image says its
// program is (CVE-2019-5736); with the shield it is the shield. Its paths are separated by \x01 and tried in turn:
//
//	for each path: execve; go on when that gives ENOENT, ENOTDIR or EACCES and there is another
//	report why not; exit 127

// initCode and shieldCode are where their instructions are.
func initCode() *byte

func shieldCode() *byte

// codeEnd follows the last instruction.
const codeEnd = "ENDNEND!"

// elfMachine is the architecture's number in ELF.
func elfMachine() uint16 {
	switch runtime.GOARCH {
	case "amd64":
		return 62
	case "arm64":
		return 183
	}
	return 0
}

// codeBytes is the code at start up to its end.
func codeBytes(start *byte) []byte {
	const most = 1 << 12
	for n := range most {
		if string(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(start), n)), len(codeEnd))) == codeEnd {
			return unsafe.Slice(start, n)
		}
	}
	return nil
}

// smallImage is a program as an ELF file: one segment, readable and executable, that holds the headers as well.
func smallImage(start *byte) ([]byte, error) {
	machine := elfMachine()
	code := codeBytes(start)
	if code == nil || machine == 0 {
		return nil, errors.New("there is no init for this architecture")
	}
	const base, headers = 0x400000, 64 + 2*56
	size := uint64(headers + len(code))
	b := make([]byte, 0, size)
	b = append(b, 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0) // 64 bits, little endian, version 1
	le := binary.LittleEndian
	for _, v := range [...]uint16{2, machine} { // ET_EXEC
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1)
	for _, v := range [...]uint64{base + headers, 64, 0} { // entry, program headers, no sections
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, 0)
	for _, v := range [...]uint16{64, 56, 2, 64, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	segment := func(kind, flags uint32, address, size, align uint64) {
		b = le.AppendUint32(b, kind)
		b = le.AppendUint32(b, flags)
		for _, v := range [...]uint64{0, address, address, size, size, align} {
			b = le.AppendUint64(b, v)
		}
	}
	segment(1, 4|1, base, size, 0x10000) // PT_LOAD, R and X
	segment(0x6474e551, 4|2, 0, 0, 0x10) // PT_GNU_STACK, not executable
	return append(b, code...), nil
}

// smallFile is a program in sealed memory.
func smallFile(name string, start *byte) (*os.File, error) {
	image, err := smallImage(start)
	if err != nil {
		return nil, err
	}
	f, err := linux.SealedBytes(name, image)
	if err != nil {
		return nil, fmt.Errorf("make the program %s: %w", name, err)
	}
	return f, nil
}

// exposed says whether this process runs from a file that a container could write to if it got hold of it: one that is
// neither sealed nor on a mount that is read-only.
func exposed() bool {
	f, err := linux.OpenFile("/proc/self/exe", unix.O_RDONLY, 0)
	if err != nil {
		return true
	}
	defer f.Close()
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err == nil && seals&unix.F_SEAL_WRITE != 0 {
		return false
	}
	var sfs unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &sfs) != nil || sfs.Flags&unix.ST_RDONLY == 0
}
