package engine

import (
	"context"
	"errors"
	"testing"
)

// A client whose stream has ended asks for the exit code although Start has not come back yet.
func TestInspectOfAnExecWaitsForItsStart(t *testing.T) {
	ex := &exec{rec: ExecRecord{ID: "x", ContainerID: "c", Running: true}, started: true,
		settled: make(chan struct{}), over: make(chan struct{})}
	x := &Execs{byID: map[string]*exec{"x": ex}}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if rec, err := x.Inspect(gone, "x"); !errors.Is(err, context.Canceled) {
		t.Fatalf("it was told before it was known: %+v, %v", rec, err)
	}
	x.ended("x", 5)
	close(ex.settled)
	rec, err := x.Inspect(context.Background(), "x")
	if err != nil || rec.Running || rec.ExitCode == nil || *rec.ExitCode != 5 {
		t.Errorf("%+v, %v", rec, err)
	}
}
