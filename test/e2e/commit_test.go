package e2e

import (
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestCommit: what a container changed is an image at once, made by every client, of containers in every state.
func TestCommit(t *testing.T) {
	harness.Need(t)
	d := harness.Start(t)
	b := d.Berth()
	d.Shell(b, `$D run --name work -e KEEP=1 -v /vol -w /srv berth/box sh -c '
		echo new >/new; mkdir -p /d/sub; echo x >/d/sub/x; ln /new /hard; ln -s new /soft; chmod 711 /d/sub/x; chown 5:6 /d/sub
		mkfifo /fifo; rm -r /etc/passwd; dd if=/dev/zero of=/sparse bs=1 count=1 seek=50000000 2>/dev/null; echo in >/vol/in'`).Exits(0)
	for _, c := range d.Clients() {
		d.Shell(c, `$D commit -a 'Ann <a@b.c>' -m 'a message' -c 'CMD ["cat", "/new"]' -c 'LABEL a=b' work test/made:1`).Exits(0).Shows("sha256:")
		d.Shell(c, `$D run --rm test/made:1`).Prints("new\n")
		d.Shell(c, `$D run --rm test/made:1 sh -c 'cat /hard /soft; stat -c "%a %u:%g" /d/sub /d/sub/x; stat -c %h /new; test -p /fifo && stat -c %s /sparse; ls /etc/passwd /vol; echo $KEEP; pwd'`).
			Shows("new\nnew\n").Shows("755 5:6\n").Shows("711 0:0\n").Shows("\n2\n").Shows("\n50000001\n").Shows("\n1\n/srv\n").Complains("/etc/passwd")
		d.Shell(c, `$D image inspect --format '{{.Author}} {{.Comment}} {{index .Config.Labels "a"}}' test/made:1`).Prints("Ann <a@b.c> a message b\n")
		d.Shell(c, `$D history --format '{{.Comment}}' test/made:1`).Shows("a message")
		// A directory that was replaced hides what it had; nothing else changes.
		d.Shell(c, `$D run --name second test/made:1 sh -c 'rm -r /d && mkdir /d && echo y >/d/y' && $D commit second test/made:2 && $D rm second`).Exits(0)
		d.Shell(c, `$D run --rm test/made:2 sh -c 'ls /d; cat /new'`).Prints("y\nnew\n")
		d.Shell(c, `$D rmi test/made:2`).Exits(0)
	}
	// Squashed, all files are one layer, and nothing that was removed is in it.
	d.Shell(b, `$D run --name third test/made:1 sh -c 'rm /new && echo z >/z' && $D commit --squash -m flat -c 'LABEL c=d' third test/flat:1 && $D rm third`).Exits(0).Shows("sha256:")
	d.Shell(b, `$D run --rm test/flat:1 sh -c 'cat /z /hard; ls /new'`).Shows("z\nnew\n").Complains("/new")
	d.Shell(b, `$D image inspect --format '{{len .RootFS.Layers}} {{index .Config.Labels "a"}} {{index .Config.Labels "c"}} {{.Comment}}' test/flat:1`).Prints("1 b d flat\n")
	d.Shell(b, `$D history -q test/flat:1 | wc -l`).Prints("1\n")
	d.Shell(b, `$D commit --squash nothing`).Exits(1).Complains("No such container: nothing")
	d.Shell(b, `$D rmi test/flat:1`).Exits(0)
	// It goes on after it stood still, and stays paused where it was.
	d.Shell(b, `$D run -d --name live berth/box sh -c 'echo a >/a; sleep 1000'`).Exits(0)
	d.Shell(b, `until $D exec live cat /a; do :; done`).Exits(0)
	d.Shell(b, `$D commit live test/live && $D inspect --format '{{.State.Status}}' live`).Exits(0).Shows("running")
	d.Shell(b, `$D pause live && $D commit live test/paused && $D inspect --format '{{.State.Status}}' live`).Exits(0).Shows("paused")
	d.Shell(b, `$D unpause live && $D commit --no-pause live && $D run --rm test/paused cat /a && $D run --rm test/live cat /a`).Exits(0).Shows("a\na\n")
	d.Shell(b, `$D diff $($D create test/live)`).Prints("")
	d.Shell(b, `$D commit nothing`).Exits(1).Complains("No such container: nothing")
	d.Shell(b, `$D commit -c 'FROM x' live`).Exits(1).Complains("FROM is not a valid change command")
	d.Shell(b, `$D commit live A/b:C:D`).Exits(1)
}
