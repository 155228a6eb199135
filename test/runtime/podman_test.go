package runtime

import (
	"os"
	"path/filepath"
	"testing"
)

// podman is a place in which $P is Podman with our runtime and one of its two cgroup managers, and $OF what a container is made with: below
// a group of the place's, a path or a slice. It has the image box:1.
func podman(t *testing.T, manager string) *place {
	t.Helper()
	p := newPlace(t, "podman", "conmon")
	p.podmanWith(manager)
	if err := os.WriteFile(filepath.Join(p.dir, "containers.conf"), []byte(podmanConf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.shell(`$P rm --all --force --time 0`)
		p.removeCgroups()
	})
	p.must(`$P import ` + p.plainImage() + ` box:1`)
	if err := os.WriteFile(filepath.Join(p.dir, "Containerfile"), []byte("FROM box:1\n"+
		"RUN echo built > /made && test $(id -u) = 0\nCOPY Containerfile /copied\nUSER 7\nRUN test $(id -u) = 7\nCMD [\"cat\", \"/made\"]\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// podmanWith has $P use a cgroup manager.
func (p *place) podmanWith(manager string) {
	parent := func(more string) string {
		if manager == "systemd" {
			return "$TAG" + more + ".slice"
		}
		return "/$TAG" + more
	}
	p.env = []string{"P=podman --root $DIR/root --runroot $DIR/run --tmpdir $DIR/tmp --runtime $R --cgroup-manager " + manager +
		" --storage-driver vfs --events-backend file", "CONTAINERS_CONF=" + filepath.Join(p.dir, "containers.conf"),
		"OF=--network none --cgroup-parent " + parent(""), "PARENT=" + parent(""), "BUILD=" + parent("-build")}
	for i, e := range p.env {
		p.env[i] = os.Expand(e, func(name string) string {
			return map[string]string{"DIR": p.dir, "R": p.runtime, "TAG": p.tag}[name]
		})
	}
}

// podmanConf keeps the locks with everything else: otherwise they stay in /dev/shm, one file for each user there was.
const podmanConf = "[engine]\nlock_type = \"file\"\n"

const podmanLoop = `sh -c 'trap "echo asked; exit 7" TERM; echo started; while :; do sleep 0.05; done'`

// The same on cgroup version 2, with groups that systemd makes and with some that the runtime makes itself. It is for the guest of
// package guest, whose process 1 is systemd; BERTH_SOAK makes it all that TestPodman is.
func TestPodmanOnSystemd(t *testing.T) {
	if os.Getenv("BERTH_GUEST") == "" {
		t.Skip("for the guest that systemd runs")
	}
	all := func(p *place) {
		if os.Getenv("BERTH_SOAK") != "" {
			p.holds(podmanAll[:])
		}
	}
	t.Run("systemd", func(t *testing.T) {
		p := podman(t, "systemd")
		p.holds([]obligation{
			{line: `$P run -d --cidfile id --name s --memory 64m --pids-limit 40 $OF box:1 ` + podmanLoop, out: "*"},
			{line: `systemctl show -p ActiveState,Slice,Delegate libpod-$(cat id).scope`,
				shows: []string{"Slice=" + p.tag + ".slice\n", "ActiveState=active\n", "Delegate=yes\n"}},
			{line: `$P exec s sh -c 'echo in; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; exit 4'`, out: "in\n67108864\n40\n", code: 4},
			{line: `$P stop -t 30 s`, out: "s\n"},
			{line: `$P rm s`, out: "s\n"},
		})
		all(p)
	})
	t.Run("cgroupfs", func(t *testing.T) {
		p := podman(t, "cgroupfs")
		p.holds([]obligation{{line: `$P run --rm --memory 64m $OF box:1 sh -c 'cat /sys/fs/cgroup/memory.max; exit 3'`, out: "67108864\n", code: 3}})
		all(p)
	})
}

// Podman drives a runtime through conmon: create with pid file, console socket and log, then start, kill, delete.
func TestPodman(t *testing.T) {
	podman(t, "cgroupfs").holds(podmanAll[:])
}

// podmanAll is what Podman can ask of a runtime. Each error stream is empty: nothing of the runtime's own may stand in a container's
// output.
var podmanAll = [...]obligation{
	{line: `$P run --rm $OF box:1 sh -c 'echo hi; exit 3'`, out: "hi\n", code: 3},
	{line: `echo through | $P run -i --rm $OF box:1 cat`, out: "through\n"},
	{line: `$P run --rm -t $OF box:1 tty`, out: "/dev/pts/0\r\n"},
	{line: `$P run --rm --network host --cgroup-parent $PARENT box:1 test -d /sys/class/net/lo`},
	{line: `$P run --rm $OF --memory 20m --cpus 0.5 --pids-limit 40 --user 5:6 --workdir /tmp -e A=b box:1 sh -c 'id -u; pwd; echo $A'`,
		out: "5\n/tmp\nb\n"},
	{line: `$P run --rm --privileged $OF box:1 test -c /dev/null`},
	{line: `$P run --rm $OF box:1 /no/such`, says: "no such file or directory", code: 127},
	{line: `$P run --rm $OF box:1 nothing`, says: "executable file not found in $PATH", code: 127},
	{line: `$P run -d --name c $OF box:1 ` + podmanLoop, out: "*"},
	{line: `$P exec c sh -c 'echo in; exit 4'`, out: "in\n", code: 4},
	{line: `$P exec -t -u 3 c sh -c 'test -t 0 && id -u'`, out: "3\r\n"},
	{line: `$P pause c`, out: "c\n"},
	{line: `$P inspect -f '{{.State.Status}}' c`, out: "paused\n"},
	{line: `$P unpause c`, out: "c\n"},
	{line: `$P top c pid args`, shows: []string{"1 ", "sleep"}},
	{line: `$P stats --no-stream --format '{{.Name}}' c`, out: "c\n"},
	{line: `$P update --memory 64m c`, out: "*"},
	{line: `$P exec c cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true`, out: "67108864\n"},
	{line: `$P stop -t 30 c`, out: "c\n"},
	{line: `$P inspect -f '{{.State.Status}} {{.State.ExitCode}}' c`, out: "exited 7\n"},
	{line: `$P logs c`, out: "started\nasked\n"},
	{line: `$P start c && $P kill -s KILL c && $P wait c`, out: "c\nc\n137\n"},
	{line: `$P rm c`, out: "c\n"},
	{line: `$P build --runtime $R --network none --cgroup-parent $BUILD -t made -f Containerfile . >log 2>&1 || { cat log; exit 1; }`},
	{line: `$P run --rm $OF made`, out: "built\n"},
	{line: `$P run --rm $OF made id -u`, out: "7\n"},
	{line: `$P create --name d $OF box:1 sleep 600`, out: "*"},
	{line: `$P init d && $P start d && $P restart -t 0 d`, shows: []string{"d"}, out: "*", says: "*"},
	{line: `$P rm -f -t 0 d`, out: "d\n"},
}
