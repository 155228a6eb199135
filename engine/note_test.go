package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/container"
)

// TestStartNote: thousands of ports fit into what a monitor keeps, and come back as they were.
func TestStartNote(t *testing.T) {
	var ports []container.Published
	for i := range 10000 {
		for _, host := range []string{"0.0.0.0", "::"} {
			ports = append(ports, container.Published{Container: uint16(20000 + i), Proto: "tcp", HostIP: host, HostPort: uint16(30000 + i)})
		}
	}
	few := []container.Published{{Container: 80, Proto: "tcp", HostIP: "0.0.0.0", HostPort: 65535}, {Container: 81, Proto: "tcp", HostIP: "0.0.0.0", HostPort: 7},
		{Container: 82, Proto: "tcp", HostIP: "0.0.0.0", HostPort: 8}, {Container: 83, Proto: "udp", HostIP: "0.0.0.0", HostPort: 9}, {Container: 53, Proto: "udp"}}
	sorted := func(ports []container.Published) string {
		var texts []string
		for _, p := range ports {
			texts = append(texts, fmt.Sprintf("%+v", p))
		}
		slices.Sort(texts)
		return strings.Join(texts, " ")
	}
	for _, want := range [][]container.Published{nil, few, ports} {
		text, err := noteOf(&launched{published: want}, t.TempDir())
		if err != nil || len(text) > maxNote/8 {
			t.Errorf("%d ports: %d bytes, %v", len(want), len(text), err)
		}
		var back startNote
		if err := json.Unmarshal(text, &back); err != nil || sorted(back.ports()) != sorted(want) {
			t.Errorf("%d ports come back as %d: %v", len(want), len(back.ports()), err)
		}
	}
	var scattered []container.Published
	for i := range 10000 {
		scattered = append(scattered, container.Published{Container: 80, Proto: "tcp", HostIP: "0.0.0.0", HostPort: uint16(1 + 3*i)})
	}
	dir := t.TempDir()
	text, err := noteOf(&launched{published: scattered, endpoints: []container.Attached{{Network: "n"}}}, dir)
	if err != nil || len(text) > maxNote {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	back, err := readNote(text, dir)
	if err != nil || sorted(back.ports()) != sorted(scattered) || len(back.Endpoints) != 1 || back.Endpoints[0].Network != "n" {
		t.Errorf("%d scattered ports come back as %d, and %+v: %v", len(scattered), len(back.ports()), back.Endpoints, err)
	}
	if err := os.Remove(noteFile(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := readNote(text, dir); err == nil {
		t.Error("a note that is gone is read")
	}
	// What another daemon, or a mischief-maker, may have left.
	for _, text := range []string{`{"published":[{"container":1,"proto":"tcp","hostIP":"::","hostPort":2}]}`, `{"published":[{"container":65535,"hostPort":1,"more":9}]}`,
		`{"published":[{"container":7,"hostPort":1,"more":-9}]}`, `{"published":[{"more":99999999999}]}`} {
		var back startNote
		if err := json.Unmarshal([]byte(text), &back); err != nil || len(back.ports()) == 0 || len(back.ports()) > 65536 {
			t.Errorf("%s: %d ports, %v", text, len(back.ports()), err)
		}
	}
}
