package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var instance atomic.Int32

// backendOfTests is the variable with the Options.Firewall of rooms.
const backendOfTests = "BERTH_TEST_FIREWALL"

// TestMain runs the tests as "the host" in a network namespace of their own: bridges, rules, forwarding and ports of the
// machine are out of reach, and everything goes with the last process.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == keeperMark {
		unix.Exit(Keep(os.Args[2])) // at once: the race detector would wait a second, with the keeper's ports
	}
	const mark = "BERTH_TEST_NETNS"
	if os.Getuid() != 0 || os.Getenv(mark) != "" {
		if os.Getuid() == 0 {
			lo, err := netlink.LinkByName("lo")
			if err == nil {
				err = netlink.LinkSetUp(lo)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// room opens Networks of the test's own: link, subnet, data.
func room(t testing.TB, change ...func(*Options)) *Networks {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	i := instance.Add(1)
	o := DefaultOptions(t.TempDir(), t.TempDir())
	o.Bridge = fmt.Sprintf("bt%d-%d", os.Getpid()%100000, i)
	o.BIP = fmt.Sprintf("10.213.%d.1/24", i)
	o.Pools = []Pool{{netip.MustParsePrefix("10.213.128.0/17"), 24}}
	o.Warm = -1
	o.Firewall = os.Getenv(backendOfTests)
	for _, f := range change {
		f(&o)
	}
	return reopen(t, o)
}

func reopen(t testing.TB, o Options) *Networks {
	t.Helper()
	n, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.mu.Lock()
		var ids []string
		for id := range n.held {
			ids = append(ids, id)
		}
		n.mu.Unlock()
		for _, id := range ids {
			_ = n.Detach(context.Background(), id)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.Retain(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	return n
}

func attach(t testing.TB, n *Networks, r AttachRequest) *Attachment {
	t.Helper()
	if r.ContainerID == "" {
		r.ContainerID = newID()
	}
	if r.Name == "" {
		r.Name = "c" + r.ContainerID[:6]
	}
	a, err := n.Attach(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.NetNS.Close()
		_ = n.Detach(context.Background(), r.ContainerID)
	})
	return a
}

// inside runs fn in the attachment's namespace.
func inside(t testing.TB, n *Networks, f *os.File, fn func() error) {
	t.Helper()
	if err := n.inNetNS(f, fn); err != nil {
		t.Fatal(err)
	}
}

func linkNames(t testing.TB) map[string]bool {
	t.Helper()
	links, err := whole(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, l := range links {
		names[l.Attrs().Name] = true
	}
	return names
}

func nft(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sleeper starts a process in a namespace and returns its pid.
func sleeper(t *testing.T, n *Networks, ns *os.File) int {
	t.Helper()
	cmd := exec.Command("sleep", "10000")
	inside(t, n, ns, cmd.Start)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}
