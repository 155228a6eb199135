package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// containerd's shim drives a runtime by its command line and reads its log.
func TestContainerd(t *testing.T) {
	p := newPlace(t, "containerd", "ctr", "containerd-shim-runc-v2")
	config := strings.NewReplacer("$DIR", p.dir).Replace(`version = 2
root = "$DIR/root"
state = "$DIR/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$DIR/c.sock"
`)
	if err := os.WriteFile(filepath.Join(p.dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p.rootfs(filepath.Join(p.dir, "fs"))
	flags := " --runc-binary " + p.runtime + " --runc-root " + p.dir + "/rr --fifo-dir " + p.dir + "/fifo --env PATH=/bin" +
		" --rootfs --cgroup /" + p.tag + "/"
	p.env = []string{"C=ctr -n " + p.tag + " -a " + p.dir + "/c.sock", "RUN=ctr -n " + p.tag + " -a " + p.dir + "/c.sock run" + flags}
	t.Cleanup(p.removeCgroups)
	t.Cleanup(func() { // where the shim has its sockets, whatever the daemon's roots; those of others are in use and stay
		for _, dir := range []string{"/run/containerd/s", "/run/containerd"} {
			_ = syscall.Rmdir(dir)
		}
	})
	p.daemon("containerd", "--config", filepath.Join(p.dir, "config.toml"))
	t.Cleanup(func() {
		p.shell(`for c in $($C task ls -q); do $C task kill -s KILL $c; $C task rm -f $c; done; for c in $($C container ls -q); do $C container rm $c; done`)
	})
	p.await(`$C version`)
	p.holds([]obligation{
		{line: `${RUN}a --rm $DIR/fs a sh -c 'echo hi; exit 3'`, out: "hi\n", code: 3},
		{line: `${RUN}b --rm --memory-limit 30000000 $DIR/fs b cat /proc/self/cgroup`, shows: []string{p.tag + "/b"}},
		{line: `${RUN}x --rm $DIR/fs x nothing`, says: "executable file not found in $PATH", code: 1},
		{line: `${RUN}c -d $DIR/fs c sh -c 'trap "exit 5" TERM; while :; do sleep 0.05; done'`},
		{line: `$C task ls`, shows: []string{"RUNNING"}},
		{line: `$C task exec --fifo-dir $DIR/fifo --exec-id e1 c sh -c 'echo in; exit 4'`, out: "in\n", code: 4},
		{line: `$C task pause c && $C task ls`, shows: []string{"PAUSED"}},
		{line: `$C task resume c && $C task ls`, shows: []string{"RUNNING"}},
		{line: `$C task ps c`, shows: []string{"PID"}},
		{line: `$C task metrics c`, shows: []string{"memory"}},
		{line: `$C task kill -s TERM c && until $C task ls | grep -q STOPPED; do :; done`},
		{line: `$C task delete c`, says: "exit code 5"},
		{line: `$C container rm c`},
		{line: `${RUN}d -d $DIR/fs d sleep 600`},
		{line: `$C task rm -f d`, says: "*", code: 0},
		{line: `$C container rm d`},
		{line: `ls $DIR/rr/$TAG`},
	})
}
