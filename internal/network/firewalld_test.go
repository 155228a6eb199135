package network

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// ownBus is a message bus on which everybody may do everything.
const ownBus = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=BUS</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy></busconfig>
`

// firewalld runs Debian's firewalld in the test's network namespace, with a configuration and a bus of the test's own. What it
// returns runs firewall-cmd.
func firewalld(t *testing.T) func(args ...string) string {
	t.Helper()
	dir := t.TempDir()
	bus, conf := filepath.Join(dir, "bus"), filepath.Join(dir, "bus.conf")
	must(t, os.WriteFile(conf, []byte(strings.ReplaceAll(ownBus, "BUS", bus)), 0o600))
	must(t, run("cp", "-r", "/etc/firewalld", filepath.Join(dir, "etc")))
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+bus)
	start := func(args ...string) {
		var log bytes.Buffer
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = &log, &log
		must(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM) // it takes its rules with it
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("%s:\n%s", args[0], &log)
			}
		})
	}
	start("dbus-daemon", "--config-file="+conf, "--nofork")
	eventually(t, "the bus is there", func() bool {
		_, err := os.Stat(bus)
		return err == nil
	})
	start("firewalld", "--nofork", "--nopid", "--system-config", filepath.Join(dir, "etc"), "--log-target", "console")
	eventually(t, "firewalld is there", func() bool { return exec.Command("firewall-cmd", "--state").Run() == nil })
	return func(args ...string) string {
		t.Helper()
		out, err := exec.Command("firewall-cmd", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("firewall-cmd %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
}

// TestBesideFirewalld: with the real firewalld on the host, whose default zone drops, published ports are reached where they are
// open, and where the host's firewall is respected only after firewalld was told to let them in; the way out is what the
// warning says; and after a reload neither our rules nor what they keep apart has changed (CVE-2025-54388, CVE-2025-54410).
func TestBesideFirewalld(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("starts a real firewalld twice, which the race detector has nothing to say of: the whole form does")
	}
	for _, program := range []string{"firewalld", "firewall-cmd", "dbus-daemon"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	for name, respect := range map[string]bool{"open": false, "respect-host-firewall": true} {
		t.Run(name, func(t *testing.T) {
			n := room(t, func(o *Options) { o.RespectFirewall = respect })
			out := outside(t, n)
			network1(t, n, CreateRequest{Name: "other"})
			a := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, Proto: "tcp", HostPort: "18162"},
				{Container: 80, Proto: "tcp", HostIP: "127.0.0.1", HostPort: "18163"}}})
			b := attach(t, n, on("other"))
			serve(t, n, a.NetNS, "tcp", ":80")
			serve(t, n, b.NetNS, "tcp", ":80")
			serve(t, n, out, "tcp", outsideAddr+":7000")
			serve(t, n, n.hostNS, "tcp", hostAddr+":7001")
			reaches(t, n, "published, without a firewall", out, "tcp", hostAddr+":18162", outsideAddr)

			do := firewalld(t)
			do("--set-default-zone=drop")
			var warning string
			eventually(t, "a warning of firewalld", func() bool {
				for _, w := range n.Warnings() {
					if strings.Contains(w, "--zone=trusted") {
						warning = w
					}
				}
				return warning != ""
			})
			doesNotReach(t, n, "the way out, before anybody did as he is told", a.NetNS, "tcp", outsideAddr+":7000")
			if respect {
				doesNotReach(t, n, "published, not let in by firewalld", out, "tcp", hostAddr+":18162")
				do("--permanent", "--zone=drop", "--add-port=18162/tcp")
			}
			_, commands, _ := strings.Cut(warning, ": ")
			for command := range strings.SplitSeq(commands, " && ") {
				args := strings.Fields(command)
				if args[0] != "firewall-cmd" {
					t.Fatalf("the warning %q", warning)
				}
				do(args[1:]...)
			}
			eventually(t, "the warning has gone", func() bool { return !strings.Contains(strings.Join(n.Warnings(), "\n"), "firewalld") })
			reloads := []string{"", "--reload"}
			if os.Getenv("BERTH_SOAK") != "" {
				reloads = append(reloads, "--complete-reload", "--reload")
			}
			for _, reload := range reloads {
				if reload != "" {
					do(reload)
				}
				when := "firewalld " + reload + ": "
				if !n.wall.intact() {
					t.Error(when + "our rules are not what they were")
				}
				reaches(t, n, when+"the way out", a.NetNS, "tcp", outsideAddr+":7000", hostAddr)
				reaches(t, n, when+"published", out, "tcp", hostAddr+":18162", outsideAddr)
				reaches(t, n, when+"published on loopback", n.hostNS, "tcp", "127.0.0.1:18163", "")
				var closed sync.WaitGroup // each waits a while
				for _, c := range []struct {
					what string
					from *os.File
					to   string
				}{
					{"published on loopback, from outside", out, hostAddr + ":18163"},
					{"a container's own address, from outside", out, at(a, 80)},
					{"another network", a.NetNS, at(b, 80)},
					{"a port of the host's own", out, hostAddr + ":7001"},
				} {
					closed.Go(func() { doesNotReach(t, n, when+c.what, c.from, "tcp", c.to) })
				}
				closed.Wait()
			}
		})
	}
}
