package ocirun

import (
	"errors"
	"fmt"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// ExecError says that everything was ready but the process could not become its program.
type ExecError struct {
	Errno    unix.Errno
	Path     string // the program or directory as the user named it
	Step     string
	Searched bool // the program was looked for in PATH
}

// Error says it in the words of Docker's runtime, which scripts know.
func (e *ExecError) Error() string {
	const prefix = "unable to start container process: "
	switch {
	case e.Step == stepCwd:
		return fmt.Sprintf(prefix+"chdir to cwd (%q) set in config.json failed: %v", e.Path, e.Errno)
	case e.Step == stepEscape:
		return prefix + stepEscape + " -- possible container breakout detected"
	case e.Searched && e.Errno == unix.ENOENT:
		return fmt.Sprintf(prefix+"exec: %q: executable file not found in $PATH", e.Path)
	case e.Errno == unix.ENOENT:
		return fmt.Sprintf(prefix+"exec: %q: stat %s: no such file or directory", e.Path, e.Path)
	}
	return fmt.Sprintf(prefix+"exec: %q: %v", e.Path, e.Errno)
}

// Unwrap gives the errno.
func (e *ExecError) Unwrap() error { return e.Errno }

// Code is Docker's exit code for it: 127 for what is not there, 126 for what cannot be executed.
func (e *ExecError) Code() int {
	if e.Errno == unix.ENOENT || e.Errno == unix.ENOTDIR {
		return 127
	}
	return 126
}

// explain turns the error of a child's step into that of the process.
func (e *execution) explain(err error) error {
	var se *linux.StepError
	if !errors.As(err, &se) {
		return err
	}
	switch se.Step {
	case stepCwd, stepEscape:
		return &ExecError{Errno: se.Errno, Path: e.process.Cwd, Step: se.Step}
	case stepEnter:
		if se.Errno == unix.ENOMEM { // what the kernel also says of a pid namespace whose first process has ended (clone(2))
			return fmt.Errorf("unable to start container process: %w (or its pid namespace has ended)", se)
		}
	case stepExec:
		if e.searched && (se.Errno == unix.ENOTDIR || se.Errno == unix.EACCES) {
			se.Errno = unix.ENOENT // of the last directory that was searched
		}
		return &ExecError{Errno: se.Errno, Path: e.process.Args[0], Step: se.Step, Searched: e.searched}
	}
	return fmt.Errorf("unable to start container process: %w", se)
}
