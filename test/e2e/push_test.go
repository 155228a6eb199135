package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestPush: every client on the machine pushes to Debian's docker-registry, and skopeo finds there what we have.
func TestPush(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "skopeo", "docker-registry")
	d := harness.Start(t)
	host := registry(t, d.Dir)
	raw := func(ref string) string {
		out, err := exec.Command("sh", "-c", "skopeo inspect --raw --tls-verify=false docker://"+ref+" | sha256sum").Output()
		if err != nil {
			t.Fatalf("skopeo inspect %s: %v", ref, err)
		}
		digest, _, _ := strings.Cut(string(out), " ")
		return "sha256:" + digest
	}
	b := d.Berth()
	d.Shell(b, "$D tag berth/box "+host+"/first:1").Exits(0)
	id := strings.TrimSpace(d.Shell(b, "$D image inspect --format '{{.Id}}' "+host+"/first:1").Exits(0).Out)
	for i, c := range d.Clients() {
		repo := host + "/app" + string(rune('a'+i))
		d.Shell(c, "$D tag berth/box "+repo+":1 && $D tag berth/box "+repo+":2").Exits(0)
		d.Shell(c, "$D push "+repo+":1").Exits(0).Shows("The push refers to repository [" + repo + "]").Shows("1: digest: " + id + " size: ")
		d.Shell(c, "$D push --all-tags "+repo).Exits(0).Shows("Layer already exists").Shows("2: digest: " + id)
		if raw(repo+":1") != id || raw(repo+":2") != id {
			t.Errorf("%s has other digests than %s", repo, id)
		}
		d.Shell(c, "$D push -q "+repo+":1").Exits(0).Prints(repo + ":1\n")
		d.Shell(c, "$D push "+repo+":none").Exits(1).Complains("An image does not exist locally with the tag: " + repo + ":none")
	}
	d.Shell(b, "$D push localhost:1/none").Exits(1)
	d.Shell(b, "$D rmi "+host+"/appa:1 && $D pull -q "+host+"/appa:1").Exits(0).Shows(host + "/appa:1")
}
