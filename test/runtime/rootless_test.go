package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// ordinaryUser makes a user with subordinate ids, who has a home and a run directory in the place and a copy of the runtime. $U before
// a command line has it run as that user.
func (p *place) ordinaryUser() {
	p.t.Helper()
	harness.Tool(p.t, "useradd", "userdel", "setpriv", "newuidmap")
	if err := os.Chmod(p.dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	name, home := p.tag, filepath.Join(p.dir, "home")
	if out, err := exec.Command("useradd", "--system", "--add-subids-for-system", "--user-group", "--create-home", "--home-dir", home, "--skel", "/nonexistent",
		name).CombinedOutput(); err != nil {
		p.t.Fatalf("useradd: %v: %s", err, out)
	}
	p.t.Cleanup(func() {
		harness.Eventually(p.t, time.Minute, "the end of the user's processes", func() bool {
			list := p.processesOf(name)
			for _, pid := range list { // Podman keeps one that has its namespaces
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return len(list) == 0
		})
		if out, err := exec.Command("userdel", name).CombinedOutput(); err != nil {
			p.t.Errorf("userdel: %v: %s", err, out)
		}
	})
	run, copied := filepath.Join(home, "run"), filepath.Join(p.dir, "berth-runtime")
	for _, line := range []string{"cp $R " + copied, "chmod 755 " + home, "mkdir -m 700 " + run + " " + home + "/tmp", "chown -R " + name + ": " + home} {
		p.must(line)
	}
	p.runtime, p.at = copied, home
	p.env = append(p.env, fmt.Sprintf("U=setpriv --reuid %s --regid %s --init-groups env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=%s XDG_RUNTIME_DIR=%s "+
		"TMPDIR=%s/tmp CONTAINERS_CONF=%s/containers.conf R=%s TAG=%s", name, name, home, run, home, home, copied, p.tag))
}

// processesOf are a user's.
func (p *place) processesOf(name string) (list []int) {
	out, err := exec.Command("ps", "-u", name, "-o", "pid=").Output()
	if err != nil {
		return nil // there are none
	}
	for _, word := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(word); err == nil {
			list = append(list, pid)
		}
	}
	return list
}

// An ordinary user's own containers, by the runtime's command line alone.
func TestRootlessCommands(t *testing.T) {
	p := newPlace(t)
	p.ordinaryUser()
	p.rootfs(filepath.Join(p.at, "b", "rootfs"))
	p.must("chown -R $TAG: b")
	p.at = filepath.Join(p.at, "b")
	const edit = `sed -i 's/"terminal": true/"terminal": false/; s/^\t*"sh"$/"sleep", "1000"/' config.json`
	p.holds([]obligation{
		{line: `$U $R spec --rootless && $U ` + edit},
		{line: `$U $R run -d c >out 2>&1 </dev/null; cat out`},
		{line: `$U $R list -q`, out: "c\n"},
		{line: `$U $R exec c id -u`, out: "0\n"},
		{line: `echo through | $U $R exec c cat`, out: "through\n"},
		{line: `$U $R exec c sh -c 'exit 4'`, code: 4},
		{line: `$U script -qec "$R exec -t c tty" /dev/null`, shows: []string{"/dev/pts/0\r\n"}},
		{line: `$U $R ps c`, shows: []string{"sleep 1000"}},
		{line: `$U $R pause c`, says: "no cgroup", code: 1},
		{line: `$U $R kill c KILL && until $U $R state c | grep -q stopped; do sleep 0.05; done; $U $R delete c`},
		{line: `$U $R list -q`},
		// Nobody else sees or ends what the user has.
		{line: `$U $R run -d c >out 2>&1 </dev/null && setpriv --reuid 65534 --clear-groups $R --root home/run/berth-runtime delete --force c; test -d ../run/berth-runtime/c`,
			says: "*"},
		{line: `$U $R delete --force c`},
		{line: `$U env -u XDG_RUNTIME_DIR $R run c`, says: "set XDG_RUNTIME_DIR", code: 1},
	})
}

// Podman as an ordinary user calls the runtime in a user namespace that it has made itself.
func TestRootlessPodman(t *testing.T) {
	p := newPlace(t, "podman", "conmon")
	p.ordinaryUser()
	p.env = append(p.env, "P=podman --root "+p.at+"/root --runroot "+p.at+"/r --tmpdir "+p.at+"/t --runtime "+p.runtime+
		" --cgroup-manager cgroupfs --storage-driver vfs --events-backend file")
	p.must("cp " + p.plainImage() + " rootfs.tar && printf '" + podmanConf + "' >containers.conf && chmod 644 rootfs.tar containers.conf")
	t.Cleanup(func() {
		p.shell(`$U $P rm --all --force --time 0`)
		p.shell(`$U $P rmi --all --force`)
	})
	p.must(`$U $P import rootfs.tar box:1 >log 2>&1 || { cat log >&2; exit 1; }`)
	p.must(`printf 'FROM box:1\nRUN echo built > /made && test $(id -u) = 0\nUSER 7\nRUN test $(id -u) = 7\nCMD ["cat", "/made"]\n' >Containerfile`)
	p.holds([]obligation{
		// Podman itself may say that "/" is not shared; the runtime says nothing.
		{line: `$U $P run --rm --network none box:1 sh -c 'id -u; echo hi; exit 3'`, out: "0\nhi\n", code: 3, says: "*"},
		{line: `echo through | $U $P run -i --rm --network none box:1 cat`, out: "through\n", says: "*"},
		{line: `$U $P run --rm -t --network none box:1 tty`, out: "/dev/pts/0\r\n", says: "*"},
		{line: `$U $P run --rm --network host box:1 test -d /sys/class/net/lo`, says: "*"},
		{line: `$U $P run --rm --network none --user 5:6 --workdir /tmp -e A=b box:1 sh -c 'id -u; id -g; pwd; echo $A; touch x; ls -ln x'`,
			shows: []string{"5\n6\n/tmp\nb\n", " 5 "}, says: "*"},
		{line: `$U $P run --rm --network none --userns keep-id box:1 sh -c 'test $(id -u) = '$(id -u $TAG)`, says: "*"},
		{line: `$U $P run --rm --network none --uidmap 0:1:1000 --gidmap 0:1:1000 box:1 id -u`, out: "0\n", says: "*"},
		{line: `$U $P run --rm --privileged --network none box:1 test -c /dev/null`, says: "*"},
		{line: `$U $P run --rm --network none box:1 /no/such`, says: "no such file or directory", code: 127},
		{line: `$U $P run --rm --network none -v $DIR/home/containers.conf:/x:ro box:1 sh -c 'echo >/x'`, says: "ead-only file system", code: 1},
		{line: `$U $P run -d --name c --network none box:1 ` + podmanLoop, out: "*", says: "*"},
		{line: `$U $P exec c sh -c 'echo in; exit 4'`, out: "in\n", code: 4, says: "*"},
		{line: `$U $P exec -t -u 3 c sh -c 'test -t 0 && id -u'`, out: "3\r\n", says: "*"},
		{line: `$U $P top c pid args`, shows: []string{"1 ", "sleep"}, says: "*"},
		{line: `$U $P stop -t 30 c`, out: "c\n", says: "*"},
		{line: `$U $P inspect -f '{{.State.Status}} {{.State.ExitCode}}' c`, out: "exited 7\n", says: "*"},
		{line: `$U $P logs c`, out: "started\nasked\n", says: "*"},
		{line: `$U $P start c && $U $P kill -s KILL c && $U $P wait c`, out: "c\nc\n137\n", says: "*"},
		{line: `$U $P rm c`, out: "c\n", says: "*"},
		{line: `$U $P build --runtime $R --network none -t made -f Containerfile . >log 2>&1 || { cat log; exit 1; }`},
		{line: `$U $P run --rm --network none made`, out: "built\n", says: "*"},
	})
}
