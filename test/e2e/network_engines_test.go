package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestBesideDockerAndPodman: Debian's engines and ours on one host, with a host outside. Everybody's containers get out, what is
// published is reached by all, and what is not by nobody else's; whoever comes last, changes his networks, or dies.
func TestBesideDockerAndPodman(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "dockerd", "docker", "podman", "ip", "curl", "busybox")
	if !harness.OnAnotherHost(t) {
		return
	}
	d := harness.Start(t)
	// It is there, with its network, when Start returns, and ends with its input: with this test, however that ends.
	neighbour := exec.Command("sh", "-c", "while :; do echo outside | busybox nc -l -p 80; done & read end")
	neighbour.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID}
	if _, err := neighbour.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := neighbour.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = neighbour.Process.Kill()
		_ = neighbour.Wait()
	})
	fill := strings.NewReplacer("{out}", "nsenter -t "+strconv.Itoa(neighbour.Process.Pid)+" -n", "{pid}", strconv.Itoa(neighbour.Process.Pid),
		"{image}", filepath.Join(d.Repo, "internal/image/builtin/files/rootfs.tar.gz"), "{cgroup}", d.Cgroup+"-podman",
		"{podman}", "env -u DOCKER_CONFIG CONTAINERS_CONF=$DIR/containers.conf podman --events-backend file --root $DIR/podman --runroot $DIR/podman-run --storage-driver vfs --cgroup-manager cgroupfs "+
			"--tmpdir $DIR/podman-tmp --network-config-dir $DIR/podman-net --runtime "+filepath.Join(d.Repo, "bin/berth-runtime"))
	var docker string
	run := func(steps ...step) {
		t.Helper()
		for i := range steps {
			steps[i].line = strings.ReplaceAll(fill.Replace(steps[i].line), "{docker}", "docker -H unix://"+docker)
		}
		obey(t, d, d.Berth(), steps)
		if t.Failed() {
			t.FailNow()
		}
	}
	const serves = `sh -c 'while :; do echo NAME | nc -l -p 80; done & while :; do echo NAME81 | nc -l -p 81; done'`
	serve := func(name string) string { return strings.ReplaceAll(serves, "NAME", name) }
	const given = "/var/lib/cni/networks/podman" // where Podman's plugins note which addresses they gave
	if _, err := os.Stat(given); err != nil {
		t.Cleanup(func() { _ = os.RemoveAll(given) })
	}
	// Otherwise the locks stay in /dev/shm.
	if err := os.WriteFile(filepath.Join(d.Dir, "containers.conf"), []byte("[engine]\nlock_type = \"file\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(
		step{line: `ip link add cable type veth peer name up0 netns {pid}; ip addr add 198.18.7.1/24 dev cable; ip link set cable up; {out} ip addr add 198.18.7.2/24 dev up0; {out} ip link set up0 up; {out} ip link set lo up; {out} ip route add default via 198.18.7.1`},
		step{line: `until {out} busybox nc 127.0.0.1 80 </dev/null; do sleep 0.1; done`, out: "outside\n"},
		step{line: `$D run -d --name web -p 8081:80 berth/box ` + serve("berth") + ` | wc -c; ` + soon(`{out} busybox nc 198.18.7.1 8081 </dev/null`), out: "65\nberth\n"},
	)
	// Docker comes, and drops by policy what is forwarded.
	docker = debianDocker(t, d, "--bip", "10.216.7.1/24", "--fixed-cidr", "10.216.7.0/24", "--default-address-pool", "base=10.216.16.0/20,size=24", "--storage-driver", "vfs")
	everybody := func(when string, names ...string) {
		t.Helper()
		exec := map[string]string{"berth": "$D exec web", "docker": "{docker} exec web", "podman": "{podman} exec web"}
		address := map[string]string{"berth": `$D inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web`,
			"docker": `{docker} inspect -f '{{.NetworkSettings.IPAddress}}' web`, "podman": `{podman} inspect -f '{{.NetworkSettings.IPAddress}}' web`}
		port := map[string]string{"berth": "8081", "docker": "8082", "podman": "8083"}
		for _, name := range names {
			run(step{line: soon(exec[name]+` nc -w 5 198.18.7.2 80 </dev/null`) + ` # ` + name + ` gets out, ` + when, out: "outside\n"},
				step{line: soon(`{out} busybox nc -w 5 198.18.7.1 `+port[name]+` </dev/null`) + ` # ` + name + ` is reached, ` + when, out: name + "\n"})
			for _, other := range names {
				run(step{line: soon(exec[other]+` nc -w 5 198.18.7.1 `+port[name]+` </dev/null`) + ` # what ` + name + ` publishes, by ` + other + `, ` + when, out: name + "\n"})
				if other == name || name != "berth" && other != "berth" || name == "podman" { // Podman's containers are open to their neighbours
					continue
				}
				run(step{line: exec[other] + ` nc -w 1 $(` + address[name] + `) 81 </dev/null # what ` + name + ` does not publish, by ` + other + `, ` + when, code: 1})
			}
		}
	}
	run(
		step{line: `{docker} import {image} box >/dev/null && {docker} run -d --name web -p 8082:80 box ` + serve("docker") + ` | wc -c`, out: "65\n"},
	)
	run(
		step{line: `{docker} network create other >/dev/null && {docker} network rm other; until nft list set ip berth-` + d.Bridge + ` docker | grep -c '"docker0"'; do sleep 0.1; done`, out: "~^other\n.*1\n$"},
		step{line: `mkdir -p $DIR/podman-net; {podman} import -q {image} box >/dev/null && {podman} run -d --cgroup-parent {cgroup} --name web -p 8083:80 box ` + serve("podman") + ` | wc -c`, out: "65\n"},
	)
	t.Cleanup(func() {
		d.ShellT(t, d.Berth(), fill.Replace(`{podman} rm -f -a -t 0 >/dev/null; {podman} rmi -f -a >/dev/null; umount $DIR/podman/vfs $DIR/podman 2>/dev/null; true`))
		removeGroups(d.Cgroup + "-podman")
	})
	everybody("all came", "berth", "docker", "podman")
	d.Kill()
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	everybody("ours was killed", "berth", "docker", "podman")
	run(step{line: `{docker} rm -f web; {podman} rm -f -t 0 web | wc -l; ` + soon(`{out} busybox nc -w 5 198.18.7.1 8081 </dev/null`), out: "web\n1\nberth\n"})
}
