package ocirun

import (
	"encoding/binary"
	"fmt"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// ReadReport tells what a process that was held with a ReportFile said about becoming its program: nil when it has, or when
// it was killed, else an *ExecError or a sentence.
func ReadReport(name string, st *State) error {
	data, err := linux.ReadRegular(name)
	if err != nil {
		return err
	}
	if len(data) < 8 {
		return nil
	}
	call, errno := int32(binary.NativeEndian.Uint32(data)), unix.Errno(binary.NativeEndian.Uint32(data[4:]))
	if call >= 0 && int(call) < st.ExecFrom {
		return fmt.Errorf("unable to start container process: %w", errno)
	}
	if st.Searched && (errno == unix.ENOTDIR || errno == unix.EACCES) {
		errno = unix.ENOENT
	}
	return &ExecError{Errno: errno, Path: st.Program, Step: stepExec, Searched: st.Searched}
}
