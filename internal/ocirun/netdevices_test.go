package ocirun

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// veth makes a pair of devices with addresses, in the test's network namespace. No test may name a device that it did not make: one
// that a container takes along comes back without its addresses, and so did this machine's own, once.
func veth(t *testing.T) (a, b string) {
	t.Helper()
	needRoot(t)
	a, b = fmt.Sprintf("bta%d", os.Getpid()%1e6), fmt.Sprintf("btb%d", os.Getpid()%1e6)
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("ip %q: %v: %s", args, err, out)
		}
	}
	ip("link", "add", a, "type", "veth", "peer", "name", b)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", b).Run() })
	ip("addr", "add", "10.233.77.1/24", "dev", a)
	ip("addr", "add", "fd00:77::1/64", "dev", a)
	ip("addr", "add", "169.254.77.1/16", "dev", a, "scope", "link")
	return a, b
}

func TestNetDevices(t *testing.T) {
	a, _ := veth(t)
	out := sh(t, "ip addr", func(o *StartOptions) {
		o.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{a: {Name: "data%d"}}
	})
	has(t, out, "data0@", "inet 10.233.77.1/24 ", "inet6 fd00:77::1/64 ", ",UP")
	if strings.Contains(out, "169.254.77.1") {
		t.Error("an address of the link's scope came along:", out)
	}
}

// When the start fails, whenever it does, the host has its device again, as it was.
func TestNetDevicesGoBack(t *testing.T) {
	a, b := veth(t)
	for name, change := range map[string]func(*StartOptions){
		"program": func(o *StartOptions) { o.Spec.Process.Args = []string{"/nothing"} },
		"mount": func(o *StartOptions) {
			o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"nonsense"}})
		},
		"other":   func(o *StartOptions) { o.Spec.Linux.NetDevices["zzz"] = specs.LinuxNetDevice{} },
		"its own": func(o *StartOptions) { o.Spec.Linux.NetDevices[b] = specs.LinuxNetDevice{Name: "data"} },
		"lo":      func(o *StartOptions) { o.Spec.Linux.NetDevices[a] = specs.LinuxNetDevice{Name: "lo"} },
	} {
		s := newSpec(newRootfs(t), "true")
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{a: {Name: "data"}}
		o := StartOptions{Spec: s}
		change(&o)
		if _, err := Start(context.Background(), o); err == nil {
			t.Error(name, "was started")
		}
		out, err := exec.Command("ip", "addr", "show", a).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "inet 10.233.77.1/24") || !strings.Contains(string(out), "inet6 fd00:77::1/64") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	for host, inside := range map[string]string{"a/b": "", "": "x", "x": "0123456789abcdef", "y": "%d%d", "z%d": "", "w": ".."} {
		s := newSpec("/nowhere", "true")
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{host: {Name: inside}}
		if err := Check(s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q as %q: %v", host, inside, err)
		}
	}
	s := newSpec("/nowhere", "true")
	s.Linux.NetDevices = map[string]specs.LinuxNetDevice{a: {}}
	s.Linux.Namespaces[1].Path = "/proc/self/ns/net"
	if err := Check(s); !errdefs.IsInvalidArgument(err) {
		t.Error("the host's own:", err)
	}
}
