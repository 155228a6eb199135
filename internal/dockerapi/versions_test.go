package dockerapi

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/logfile"
	"github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
)

// fields is the JSON of v as a tree.
func fields(t *testing.T, v any) map[string]any {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// has says whether the dotted path is there.
func has(tree map[string]any, path ...string) bool {
	for i, p := range path {
		v, there := tree[p]
		if !there {
			return false
		}
		if i < len(path)-1 {
			next, ok := v.(map[string]any)
			if !ok {
				return false
			}
			tree = next
		}
	}
	return true
}

func sampleInspect() *api.InspectResponse {
	e := &network.EndpointSettings{
		NetworkID: "n", EndpointID: "e", IPAddress: netip.MustParseAddr("172.17.0.2"), IPPrefixLen: 16,
		Gateway: netip.MustParseAddr("172.17.0.1"), MacAddress: network.HardwareAddr{2, 0x42, 0, 0, 0, 1},
		DNSNames: []string{"x"},
	}
	return &api.InspectResponse{
		ID: "0123456789abcdef", Config: &api.Config{Image: "a"}, HostConfig: &api.HostConfig{NetworkMode: "bridge"},
		NetworkSettings: &api.NetworkSettings{Networks: map[string]*network.EndpointSettings{"bridge": e}},
	}
}

func TestInspectOfOlderVersions(t *testing.T) {
	for _, c := range []struct {
		path        []string
		until, from version
	}{
		{[]string{"NetworkSettings", "IPAddress"}, 51, 0},
		{[]string{"NetworkSettings", "SecondaryIPAddresses"}, 51, 0},
		{[]string{"NetworkSettings", "HairpinMode"}, 51, 0},
		{[]string{"NetworkSettings", "Networks", "bridge", "IPAddress"}, MaxVersion, 0},
		{[]string{"NetworkSettings", "Ports"}, MaxVersion, 0},
		{[]string{"Config", "OnBuild"}, 51, 0},
		{[]string{"Config", "Image"}, MaxVersion, 0},
		{[]string{"Config", "MacAddress"}, 43, 0},
		{[]string{"HostConfig", "KernelMemory"}, 41, 0},
		{[]string{"HostConfig", "NetworkMode"}, MaxVersion, 0},
	} {
		for _, v := range []version{24, 40, 41, 42, 43, 44, 50, 51, 52, 55} {
			got := has(fields(t, downgradeInspect(sampleInspect(), v)), c.path...)
			if want := v >= c.from && v <= c.until; got != want {
				t.Errorf("%s: %v is there: %t, want %t", v, c.path, got, want)
			}
		}
	}
	ns := fields(t, downgradeInspect(sampleInspect(), 41))["NetworkSettings"].(map[string]any)
	if ns["IPAddress"] != "172.17.0.2" || ns["Gateway"] != "172.17.0.1" || ns["IPPrefixLen"] != 16.0 ||
		ns["MacAddress"] != "02:42:00:00:00:01" || ns["GlobalIPv6Address"] != "" {
		t.Errorf("default bridge's copy: %v", ns)
	}
	// The short ID was among the aliases until 1.44; names have a place of their own since.
	for v, want := range map[version]bool{41: true, 44: true, 45: false} {
		r := sampleInspect()
		downgradeInspect(r, v)
		if e := r.NetworkSettings.Networks["bridge"]; (len(e.Aliases) == 1) != want || (e.DNSNames == nil) != (v < 44) {
			t.Errorf("%s: aliases %q, names %q", v, e.Aliases, e.DNSNames)
		}
	}
}

func TestInfoOfOlderVersions(t *testing.T) {
	sample := func() *system.Info {
		return &system.Info{
			RegistryConfig: &registry.ServiceConfig{}, FirewallBackend: &system.FirewallInfo{Driver: "nftables"},
			RuncCommit: system.Commit{ID: "c"}, SecurityOptions: []string{"name=seccomp,profile=builtin"},
		}
	}
	for _, c := range []struct {
		path        []string
		from, until version
	}{
		{[]string{"BridgeNfIptables"}, 0, 49},
		{[]string{"KernelMemory"}, 0, 41},
		{[]string{"RuncCommit", "Expected"}, 0, 48},
		{[]string{"RuncCommit", "ID"}, 0, MaxVersion},
		{[]string{"FirewallBackend"}, 49, MaxVersion},
		{[]string{"RegistryConfig", "Mirrors"}, 0, MaxVersion},
		{[]string{"NCPU"}, 0, MaxVersion},
	} {
		for _, v := range []version{24, 41, 42, 48, 49, 50, 55} {
			got := has(fields(t, downgradeInfo(sample(), v)), c.path...)
			if want := v >= c.from && v <= c.until; got != want {
				t.Errorf("%s: %v is there: %t, want %t", v, c.path, got, want)
			}
		}
	}
	r := sample()
	downgradeInfo(r, 24)
	if r.SecurityOptions[0] != "seccomp" {
		t.Errorf("1.24: %q", r.SecurityOptions)
	}
}

func TestImagesOfOlderVersions(t *testing.T) {
	for v, want := range map[version]struct {
		virtual, none bool
		containers    float64
	}{41: {true, true, -1}, 43: {true, false, -1}, 44: {false, false, -1}, 51: {false, false, 2}} {
		got := fields(t, downgradeImage(&image.Summary{ID: "x", RepoTags: []string{}, Containers: 2}, v))
		if has(got, "VirtualSize") != want.virtual || got["Containers"] != want.containers ||
			(len(got["RepoTags"].([]any)) == 1) != want.none {
			t.Errorf("%s: %v", v, got)
		}
	}
	sample := func() *image.InspectResponse {
		return &image.InspectResponse{ID: "x", Config: &v1.DockerOCIImageConfig{}}
	}
	for _, c := range []struct {
		path  []string
		until version
	}{
		{[]string{"Config", "Cmd"}, 51}, {[]string{"Config", "Hostname"}, 49}, {[]string{"ContainerConfig"}, 44},
		{[]string{"VirtualSize"}, 43}, {[]string{"Parent"}, 51}, {[]string{"RootFS"}, MaxVersion},
	} {
		for _, v := range []version{24, 43, 44, 45, 49, 50, 51, 52, 55} {
			if got := has(fields(t, downgradeImageInspect(sample(), v)), c.path...); got != (v <= c.until) {
				t.Errorf("%s: %v is there: %t", v, c.path, got)
			}
		}
	}
}

func TestDiskUsageOfOlderVersions(t *testing.T) {
	sample := func() *diskUsage {
		u := &diskUsage{asked: map[system.DiskUsageObject]bool{system.ImageObject: true}, layers: 5}
		u.ImageUsage = &image.DiskUsage{TotalSize: 5}
		u.images = []image.Summary{{ID: "x", Containers: 3}}
		return u
	}
	for _, c := range []struct {
		v                 version
		verbose           bool
		legacy, sums, old bool
	}{
		{41, false, true, false, true}, {51, false, true, false, false}, {52, false, true, true, false},
		{52, true, false, true, false}, {53, false, false, true, false},
	} {
		got := fields(t, downgradeDiskUsage(sample(), c.verbose, c.v))
		if has(got, "LayersSize") != c.legacy || has(got, "ImageUsage") != c.sums || has(got, "BuilderSize") != c.old {
			t.Errorf("%s verbose %t: %v", c.v, c.verbose, got)
		}
		if c.legacy && got["Images"].([]any)[0].(map[string]any)["Containers"] != 3.0 {
			t.Errorf("%s: containers of an image are not counted: %v", c.v, got)
		}
	}
}

func TestEventsOfOlderVersions(t *testing.T) {
	e := engine.Event{Type: "container", Action: "start", ActorID: "id", Attributes: map[string]string{"image": "a"},
		Time: time.Unix(5, 7)}
	if got := fields(t, eventOf(e, 51)); got["status"] != "start" || got["id"] != "id" || got["from"] != "a" ||
		got["timeNano"] != 5000000007.0 {
		t.Errorf("1.51: %v", got)
	}
	if got := fields(t, eventOf(e, 52)); has(got, "status") || has(got, "from") || got["Action"] != "start" ||
		got["scope"] != "local" {
		t.Errorf("1.52: %v", got)
	}
}

func TestEventFilter(t *testing.T) {
	e := engine.Event{Type: "container", Action: "exec_start: sh", ActorID: "0123", Attributes: map[string]string{
		"name": "web", "image": "reg.io:5000/a:1", "tier": "front"}}
	for param, want := range map[string]bool{
		`{"type":["container"]}`: true, `{"type":["image"]}`: false, `{"container":["web"]}`: true,
		`{"container":["012"]}`: true, `{"container":["db"]}`: false, `{"event":["exec_start"]}`: true,
		`{"event":["exec_start: sh"]}`: true, `{"event":["die"]}`: false,
		`{"image":["reg.io:5000/a"]}`: true, `{"image":["reg.io:5000/a:1"]}`: true, `{"image":["b"]}`: false,
		`{"label":["tier=front"]}`: true, `{"label":["tier=back"]}`: false, `{"network":["web"]}`: false,
		`{"scope":["swarm"]}`: false,
	} {
		f, err := parseFilters(param, "type", "container", "event", "image", "label", "network", "scope")
		if err != nil {
			t.Fatal(err)
		}
		if got := eventFilter(f)(e); got != want {
			t.Errorf("%s: %t", param, got)
		}
	}
}

func TestStatusText(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := now.Add(-5 * time.Minute)
	health := func(status string) *container.HealthState { return &container.HealthState{Status: status} }
	for want, st := range map[string]container.State{
		"Created":                           {Status: container.Created},
		"Up 5 minutes":                      {Status: container.Running, StartedAt: at},
		"Up 5 minutes (healthy)":            {Status: container.Running, StartedAt: at, Health: health("healthy")},
		"Up 5 minutes (health: starting)":   {Status: container.Running, StartedAt: at, Health: health("starting")},
		"Up 5 minutes (Paused)":             {Status: container.Paused, StartedAt: at},
		"Exited (137) 5 minutes ago":        {Status: container.Exited, ExitCode: 137, FinishedAt: at},
		"Restarting (1) 5 minutes ago":      {Status: container.Restarting, ExitCode: 1, FinishedAt: at},
		"Dead":                              {Status: container.Dead},
		"Removal In Progress":               {Status: container.Removing},
		"Exited (0) Less than a second ago": {Status: container.Exited, FinishedAt: now},
	} {
		if got := statusText(st, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestLogLines(t *testing.T) {
	e := logfile.Entry{Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Stream: 2, Line: []byte("hello\n"),
		Attrs: map[string]string{"b": "x y", "a": "1"}}
	if got := string(appendEntry(nil, e, false, true, true)); got != "2026-01-02T03:04:05.000000006Z a=1,b=x+y hello\n" {
		t.Errorf("raw: %q", got)
	}
	if got := string(appendEntry(nil, e, true, false, false)); got != "\x02\x00\x00\x00\x00\x00\x00\x06hello\n" {
		t.Errorf("framed: %q", got)
	}
}

func TestProgressLines(t *testing.T) {
	got := fields(t, legacyProgress(jsonstream.Message{Error: &jsonstream.Error{Message: "no"}}))
	if got["error"] != "no" || !has(got, "errorDetail", "message") {
		t.Errorf("%v", got)
	}
}
