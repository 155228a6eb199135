package ocirun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/berth-engine/berth/internal/durable"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/specjson"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// State is what state.json of a container holds. Only this package reads and writes the file.
type State struct {
	Format      int               `json:"format"` // 1
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	StartTime   uint64            `json:"startTime"` // clock ticks after boot: with Pid it names the process for good
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Held        bool              `json:"held"`               // created and not started
	Program     string            `json:"program"`            // args[0]
	Searched    bool              `json:"searched,omitempty"` // in PATH
	ExecFrom    int               `json:"execFrom,omitempty"` // of ReadReport
	CgroupPath  string            `json:"cgroupPath,omitempty"`
	Rdt         *Rdt              `json:"rdt,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// What hooks to come need: the last two those in the container.
	Hooks   *specs.Hooks        `json:"hooks,omitempty"`
	Process *specs.Process      `json:"process,omitempty"`
	Seccomp *specs.LinuxSeccomp `json:"seccomp,omitempty"`
	Owner   int                 `json:"owner"` // user who made it
}

// StateFile is the name of a state file.
const StateFile = "state.json"

// NewState describes a process that was started.
func NewState(o *StartOptions, p *Process) *State {
	st := &State{Format: 1, OCIVersion: specs.Version, ID: o.ID, Pid: p.Pid, StartTime: p.StartTime, Bundle: o.Bundle,
		Created: p.StartedAt.UTC(), Held: o.Hold, Program: o.Spec.Process.Args[0],
		Searched: p.exec.searched, ExecFrom: p.exec.execFrom, Annotations: o.Spec.Annotations, Owner: Owner()}
	if o.Spec.Root != nil {
		st.Rootfs = o.Spec.Root.Path
		if !filepath.IsAbs(st.Rootfs) {
			st.Rootfs = filepath.Join(o.Bundle, st.Rootfs)
		}
	}
	if p.Cgroup != nil {
		st.CgroupPath = p.Cgroup.Path()
	}
	st.Rdt = p.Rdt
	st.keepHooks(o.Spec)
	return st
}

// WriteState replaces the state file in dir.
func WriteState(dir string, st *State) error {
	data, err := st.encode()
	if err != nil {
		return err
	}
	return durable.WriteVolatile(filepath.Join(dir, StateFile), data, 0o600)
}

// encode is json.Marshal, which would take longer to get ready for its first and only use than the rest of a start (see package
// specjson). Only what few have is left to it.
func (st *State) encode() ([]byte, error) {
	b := make([]byte, 0, 512)
	number := func(name string, n int64) {
		b = strconv.AppendInt(append(append(b, name...), ':'), n, 10)
		b = append(b, ',')
	}
	text := func(name, s string) { b = append(specjson.AppendString(append(append(b, name...), ':'), s), ',') }
	flag := func(name string, v bool) {
		b = strconv.AppendBool(append(append(b, name...), ':'), v)
		b = append(b, ',')
	}
	b = append(b, '{')
	number(`"format"`, int64(st.Format))
	text(`"ociVersion"`, st.OCIVersion)
	text(`"id"`, st.ID)
	number(`"pid"`, int64(st.Pid))
	b = append(strconv.AppendUint(append(b, `"startTime":`...), st.StartTime, 10), ',')
	text(`"bundle"`, st.Bundle)
	text(`"rootfs"`, st.Rootfs)
	text(`"created"`, st.Created.Format(time.RFC3339Nano))
	flag(`"held"`, st.Held)
	text(`"program"`, st.Program)
	flag(`"searched"`, st.Searched)
	number(`"execFrom"`, int64(st.ExecFrom))
	text(`"cgroupPath"`, st.CgroupPath)
	number(`"owner"`, int64(st.Owner))
	if len(st.Annotations) > 0 {
		b = append(b, `"annotations":{`...)
		for _, key := range slices.Sorted(maps.Keys(st.Annotations)) {
			b = append(specjson.AppendString(b, key), ':')
			b = append(specjson.AppendString(b, st.Annotations[key]), ',')
		}
		b[len(b)-1] = '}'
		b = append(b, ',')
	}
	if st.Hooks != nil || st.Process != nil || st.Seccomp != nil || st.Rdt != nil {
		more, err := json.Marshal(struct {
			Hooks   *specs.Hooks        `json:"hooks,omitempty"`
			Process *specs.Process      `json:"process,omitempty"`
			Seccomp *specs.LinuxSeccomp `json:"seccomp,omitempty"`
			Rdt     *Rdt                `json:"rdt,omitempty"`
		}{st.Hooks, st.Process, st.Seccomp, st.Rdt})
		if err != nil {
			return nil, err
		}
		return append(b, more[1:]...), nil
	}
	b[len(b)-1] = '}'
	return b, nil
}

// ReadState reads the state file in dir; errdefs.ErrNotFound when there is none.
func ReadState(dir string) (*State, error) {
	data, err := linux.ReadRegular(filepath.Join(dir, StateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("container does not exist: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	st := &State{}
	if err := specjson.Unmarshal(data, st); err != nil {
		return nil, fmt.Errorf("state file %q is damaged: %w", filepath.Join(dir, StateFile), err)
	}
	if st.Format != 1 {
		return nil, fmt.Errorf("state file %q has format %d, which this version does not know", filepath.Join(dir, StateFile), st.Format)
	}
	return st, nil
}

// Status is the container's state as the runtime specification counts them.
func (st *State) Status() specs.ContainerState {
	ticks, letter, err := linux.StartTime(st.Pid)
	switch {
	case err != nil || ticks != st.StartTime || letter == 'Z' || letter == 'X':
		return specs.StateStopped
	case st.Held:
		return specs.StateCreated
	}
	return specs.StateRunning
}
