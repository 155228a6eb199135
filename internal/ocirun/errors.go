package ocirun

import (
	"errors"
	"syscall"

	"github.com/berth-engine/berth/internal/linux"
)

// ExecError says that a container's process could not be started, and at which step.
type ExecError struct {
	Step  string
	Errno syscall.Errno
	// Program is argv[0] when it was the execve itself that failed.
	Program string
	text    string
}

func (e *ExecError) Error() string { return e.text }

// Unwrap gives the errno.
func (e *ExecError) Unwrap() error { return e.Errno }

// Code is the exit code that Docker gives such a failure: 127 for a program that is not there, 126 for one that cannot be
// run, 125 for everything else.
func (e *ExecError) Code() int {
	switch {
	case e.Program == "":
		return 125
	case e.Errno == syscall.ENOENT, e.Errno == syscall.ENOTDIR:
		return 127
	}
	return 126
}

const execStep = "exec"

// explain turns a failed step into the sentence that clients know.
func explain(err error, argv0 string, searched bool) error {
	var fe *linux.StepError
	if !errors.As(err, &fe) {
		return err
	}
	e := &ExecError{Step: fe.Step, Errno: fe.Errno, text: "unable to start container process: " + fe.Step + ": " + fe.Errno.Error()}
	if fe.Step != execStep {
		return e
	}
	e.Program = argv0
	reason := fe.Errno.Error()
	if searched && fe.Errno == syscall.ENOENT {
		reason = "executable file not found in $PATH"
	}
	e.text = "unable to start container process: exec: \"" + argv0 + "\": " + reason
	return e
}
