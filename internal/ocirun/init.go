package ocirun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/berth-engine/berth/internal/linux"
)

// The init of a container is a program of some 400 bytes, so that it costs a container neither memory nor start-up time:
//
//	block all signals; fork
//	child:   own process group, the terminal's foreground; unblock; execve the program, or report why not; exit 127
//	parent:  for each signal: SIGCHLD   reap whoever ended; when it was the child, exit as it did (128+signal)
//	                          any other send it to the child
//
// It is executed from sealed memory: nothing of it lies in the container's files and nobody can change it. It shows as
// "/sbin/docker-init -- PROGRAM ARGS…", as Docker's does.
//
//	argv: /sbin/docker-init -- PROGRAM ARGS…     argv[2:] is the program's argv
//	envp: R/path/of/program A=1 B=2 …            envp[1:] is the program's environment; R-32 is the report's descriptor
//
// Its report is {-2, errno}, see linux.Program.

// initCode is where the program's instructions are.
func initCode() *byte

// initEnd follows the last instruction.
const initEnd = "ENDNEND!"

// elfMachines are the numbers of architectures in ELF.
var elfMachines = map[string]uint16{"amd64": 62, "arm64": 183}

// initBytes is the code up to its end.
func initBytes() []byte {
	const most = 1 << 12
	start := unsafe.Pointer(initCode())
	for n := range most {
		if string(unsafe.Slice((*byte)(unsafe.Add(start, n)), len(initEnd))) == initEnd {
			return unsafe.Slice((*byte)(start), n)
		}
	}
	return nil
}

// initImage is the program as an ELF file: one segment, readable and executable, that holds the headers as well.
func initImage() ([]byte, error) {
	machine, there := elfMachines[runtime.GOARCH]
	code := initBytes()
	if code == nil || !there {
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

// initFile is the program in sealed memory.
func initFile() (*os.File, error) {
	image, err := initImage()
	if err != nil {
		return nil, err
	}
	f, err := linux.SealedBytes("docker-init", image)
	if err != nil {
		return nil, fmt.Errorf("make the init: %w", err)
	}
	return f, nil
}
