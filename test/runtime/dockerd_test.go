package runtime

import (
	"path/filepath"
	"syscall"
	"testing"
)

// dockerd takes a runtime by --add-runtime and drives it through containerd's shim, with hooks of its own kind: none, since the
// containers here have no network of Docker's.
func TestDockerd(t *testing.T) {
	p := newPlace(t, "dockerd", "docker", "containerd")
	p.env = []string{"D=docker -H unix://" + p.dir + "/d.sock", "DOCKER_CONFIG=" + p.dir + "/client", "DOCKER_CLI_HINTS=false"}
	t.Cleanup(func() {
		// What dockerd leaves by design: its namespace for --network host, and the group above its containers'.
		_ = syscall.Unmount(filepath.Join(p.dir, "run/netns/default"), syscall.MNT_DETACH)
		p.removeCgroups()
	})
	p.daemon("dockerd", "--data-root", p.dir+"/data", "--exec-root", p.dir+"/run", "--pidfile", p.dir+"/pid", "-H", "unix://"+p.dir+"/d.sock",
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver", "vfs",
		"--cgroup-parent", "/"+p.tag, "--add-runtime", "berth="+p.runtime, "--default-runtime", "berth")
	t.Cleanup(func() { p.shell(`$D ps -aq | xargs -r $D rm -f`) })
	p.await(`$D version`)
	p.must(`$D import ` + p.image() + ` box:1`)
	p.holds([]obligation{
		{line: `$D info --format '{{.DefaultRuntime}}'`, out: "berth\n"},
		{line: `$D run --rm box:1 sh -c 'echo hi; exit 3'`, out: "hi\n", code: 3},
		{line: `echo through | $D run -i --rm box:1 cat`, out: "through\n"},
		{line: `$D run --rm -t box:1 tty`, out: "/dev/pts/0\r\n"},
		{line: `$D run --rm --network host box:1 test -d /sys/class/net/lo`},
		{line: `$D run --rm --memory 6m box:1 echo small`, out: "small\n"},
		{line: `$D run --rm --init --read-only --tmpfs /x box:1 touch /x/y`},
		{line: `$D run --rm --privileged box:1 test -c /dev/null`},
		{line: `$D run --rm --cap-drop ALL --security-opt no-new-privileges --user 5:6 box:1 id -u`, out: "5\n"},
		{line: `$D run --rm box:1 nothing`, says: `exec: "nothing": executable file not found in $PATH`, code: 127},
		{line: `$D run -d --name cc box:1 sh -c 'trap "echo asked; exit 7" TERM; echo started; while :; do sleep 0.05; done'`, out: "*"},
		{line: `$D exec cc sh -c 'echo in; exit 4'`, out: "in\n", code: 4},
		{line: `$D exec -u 3 -w /tmp -e A=b cc sh -c 'id -u; pwd; echo $A'`, out: "3\n/tmp\nb\n"},
		{line: `$D exec cc nothing`, out: "*", says: "*", code: 126}, // as this dockerd reads any runtime's words
		{line: `$D pause cc && $D inspect -f '{{.State.Status}}' cc && $D unpause cc`, out: "cc\npaused\ncc\n"},
		{line: `$D update --memory 64m --memory-swap 64m --cpus 0.5 cc`, out: "cc\n"},
		{line: `$D exec cc sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max'`, out: "67108864\n"},
		{line: `$D top cc`, shows: []string{"sleep"}},
		{line: `$D stats --no-stream --format '{{.Name}} {{.MemUsage}}' cc`, shows: []string{"cc ", "/ 64MiB"}},
		{line: `$D stop -t 30 cc && $D inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}}' cc`, out: "cc\n7 false\n"},
		{line: `$D logs cc`, out: "started\nasked\n"},
		{line: `$D start cc && $D kill cc && $D wait cc`, out: "cc\ncc\n137\n"},
		{line: `$D rm cc`, out: "cc\n"},
	})
}
