package network

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// ufw runs Debian's ufw in the test's network namespace, with a configuration of the test's own in dir.
func ufw(t *testing.T, dir string, args ...string) {
	t.Helper()
	const inside = `mount --make-rprivate / && mount --bind "$0/ufw" /etc/ufw && mount --bind "$0/default" /etc/default/ufw && exec ufw "$@"`
	out, err := exec.Command("unshare", append([]string{"--mount", "sh", "-c", inside, dir}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ufw %v: %v\n%s", args, err, out)
	}
}

// TestBesideUFW: with the real ufw on the host, which drops what comes in and what is forwarded, published ports are reached all
// the same where they are open, and where the host's firewall is respected only after ufw was told to let them in.
func TestBesideUFW(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("ufw"); err != nil {
		t.Skip(err)
	}
	for name, respect := range map[string]bool{"open": false, "respect-host-firewall": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for from, to := range map[string]string{"/etc/ufw": "ufw", "/etc/default/ufw": "default"} {
				must(t, run("cp", "-r", from, filepath.Join(dir, to)))
			}
			must(t, os.WriteFile(filepath.Join(dir, "ufw", "ufw.conf"), []byte("ENABLED=no\nLOGLEVEL=off\n"), 0o600))
			n := room(t, func(o *Options) { o.RespectFirewall = respect })
			out := outside(t, n)
			a := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, Proto: "tcp", HostPort: "18161"}}})
			serve(t, n, a.NetNS, "tcp", ":80")
			serve(t, n, out, "tcp", outsideAddr+":7000")
			serve(t, n, n.hostNS, "tcp", hostAddr+":7001")
			reaches(t, n, "published, without a firewall", out, "tcp", hostAddr+":18161", outsideAddr)

			ufw(t, dir, "--force", "enable")
			t.Cleanup(func() { ufw(t, dir, "--force", "reset") })
			eventually(t, "the way out is open beside ufw", func() bool {
				_, err := ask(n, a.NetNS, "tcp", outsideAddr+":7000", quick)
				return err == nil
			})
			doesNotReach(t, n, "a port of the host's own", out, "tcp", hostAddr+":7001")
			if !respect {
				reaches(t, n, "published, beside ufw", out, "tcp", hostAddr+":18161", outsideAddr)
				return
			}
			doesNotReach(t, n, "published, not let in by ufw", out, "tcp", hostAddr+":18161")
			ufw(t, dir, "allow", "18161/tcp")
			reaches(t, n, "published, let in by ufw", out, "tcp", hostAddr+":18161", outsideAddr)
			ufw(t, dir, "reload")
			reaches(t, n, "published, let in by ufw, reloaded", out, "tcp", hostAddr+":18161", outsideAddr)
		})
	}
}
