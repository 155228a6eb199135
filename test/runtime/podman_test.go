package runtime

import (
	"os"
	"path/filepath"
	"testing"
)

// Podman drives a runtime through conmon: create with pid file, console socket and log, then start, kill, delete.
func TestPodman(t *testing.T) {
	p := newPlace(t, "podman", "conmon")
	p.env = []string{"P=podman --root $DIR/root --runroot $DIR/run --tmpdir $DIR/tmp --runtime $R --cgroup-manager cgroupfs " +
		"--storage-driver vfs --events-backend file", "CONTAINERS_CONF=" + filepath.Join(p.dir, "containers.conf"),
		"OF=--network none --cgroup-parent /$TAG"}
	for i, e := range p.env {
		p.env[i] = os.Expand(e, func(name string) string {
			return map[string]string{"DIR": p.dir, "R": p.runtime, "TAG": p.tag}[name]
		})
	}
	if err := os.WriteFile(filepath.Join(p.dir, "containers.conf"), nil, 0o600); err != nil {
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
	const loop = `sh -c 'trap "echo asked; exit 7" TERM; echo started; while :; do sleep 0.05; done'`
	p.holds([]obligation{
		// Each error stream is empty: nothing of the runtime's own may stand in a container's output.
		{line: `$P run --rm $OF box:1 sh -c 'echo hi; exit 3'`, out: "hi\n", code: 3},
		{line: `echo through | $P run -i --rm $OF box:1 cat`, out: "through\n"},
		{line: `$P run --rm -t $OF box:1 tty`, out: "/dev/pts/0\r\n"},
		{line: `$P run --rm --network host --cgroup-parent /$TAG box:1 test -d /sys/class/net/lo`},
		{line: `$P run --rm $OF --memory 20m --cpus 0.5 --pids-limit 40 --user 5:6 --workdir /tmp -e A=b box:1 sh -c 'id -u; pwd; echo $A'`,
			out: "5\n/tmp\nb\n"},
		{line: `$P run --rm --privileged $OF box:1 test -c /dev/null`},
		{line: `$P run --rm $OF box:1 /no/such`, says: "no such file or directory", code: 127},
		{line: `$P run --rm $OF box:1 nothing`, says: "executable file not found in $PATH", code: 127},
		{line: `$P run -d --name c $OF box:1 ` + loop, out: "*"},
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
		{line: `$P build --runtime $R --network none --cgroup-parent /$TAG-build -t made -f Containerfile . >log 2>&1 || { cat log; exit 1; }`},
		{line: `$P run --rm $OF made`, out: "built\n"},
		{line: `$P run --rm $OF made id -u`, out: "7\n"},
		{line: `$P create --name d $OF box:1 sleep 600`, out: "*"},
		{line: `$P init d && $P start d && $P restart -t 0 d`, shows: []string{"d"}, out: "*", says: "*"},
		{line: `$P rm -f -t 0 d`, out: "d\n"},
	})
}
