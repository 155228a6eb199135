package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berth-engine/berth/internal/container"
)

// startNote is what a monitor keeps for a daemon that is killed before it could save the start.
type startNote struct {
	Endpoints []container.Attached `json:"endpoints,omitempty"`
	Published []portRun            `json:"published,omitempty"`
	// File says that the note is too long for a monitor, with thousands of ports here and there, and stands in noteFile.
	File bool `json:"file,omitempty"`
}

// portRun is a published port, and More that follow it, in the container and on the host.
type portRun struct {
	container.Published
	More int `json:"more,omitempty"`
}

// portRuns makes runs of ports: a range of thousands is one.
func portRuns(ports []container.Published) []portRun {
	type of struct{ proto, host string }
	var runs []portRun
	last := map[of]int{}
	for _, p := range ports {
		k := of{p.Proto, p.HostIP}
		if i, ok := last[k]; ok {
			r := &runs[i]
			if next := r.More + 1; int(p.Container) == int(r.Container)+next && int(p.HostPort) == int(r.HostPort)+next {
				r.More = next
				continue
			}
		}
		last[k] = len(runs)
		runs = append(runs, portRun{Published: p})
	}
	return runs
}

// ports are those of all runs; a run that goes beyond the last port there is ends with that.
func (n startNote) ports() []container.Published {
	var ports []container.Published
	for _, r := range n.Published {
		for i := range min(max(r.More, 0), 65535-int(max(r.Container, r.HostPort))) + 1 {
			p := r.Published
			p.Container, p.HostPort = p.Container+uint16(i), p.HostPort+uint16(i)
			ports = append(ports, p)
		}
	}
	return ports
}

// maxNote is what a monitor keeps, in bytes.
const maxNote = 16 << 10

// noteFile is where a note stands that is longer, in the container's run directory: beside the files for /etc, with which it
// goes. It is gone after a reboot, as the monitor is, so nothing is synced.
func noteFile(dir string) string { return filepath.Join(dir, etcDir, "start-note") }

// noteOf is the note of a start of the container with this run directory.
func noteOf(run *launched, dir string) ([]byte, error) {
	note, err := json.Marshal(startNote{Endpoints: run.endpoints, Published: portRuns(run.published)})
	if err != nil || len(note) <= maxNote {
		return note, err
	}
	file := noteFile(dir)
	if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
		return nil, fmt.Errorf("make the directory of a start's note: %w", err)
	}
	if err := os.WriteFile(file, note, 0o600); err != nil {
		return nil, fmt.Errorf("write a start's note: %w", err)
	}
	return json.Marshal(startNote{File: true})
}

// readNote reads what a monitor has kept of the start of the container with this run directory.
func readNote(note []byte, dir string) (n startNote, err error) {
	if err := json.Unmarshal(note, &n); err != nil {
		return n, fmt.Errorf("read a start's note: %w", err)
	}
	if !n.File {
		return n, nil
	}
	if note, err = os.ReadFile(noteFile(dir)); err != nil {
		return n, fmt.Errorf("read a start's note: %w", err)
	}
	if err := json.Unmarshal(note, &n); err != nil {
		return n, fmt.Errorf("read a start's note in %q: %w", noteFile(dir), err)
	}
	return n, nil
}
