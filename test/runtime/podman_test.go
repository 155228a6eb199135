package runtime

import (
	"os"
	"path/filepath"
	"strings"
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

// What else Podman makes of a runtime: pods that share namespaces, Kubernetes' pods, health checks, user namespaces, and every kind of option.
func TestPodmanInOtherWays(t *testing.T) {
	p := podman(t, "cgroupfs")
	p.must(`$P import --change 'CMD ["sleep","1000"]' rootfs.tar infra:1`)
	kube := strings.NewReplacer("\t", "  ").Replace(podmanKube)
	if err := os.WriteFile(filepath.Join(p.dir, "kube.yaml"), []byte(kube), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := podmanConf + "infra_image = \"localhost/infra:1\"\n"
	if err := os.WriteFile(filepath.Join(p.dir, "containers.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.shell(`$P pod rm --all --force --time 0`) })
	p.holds([]obligation{
		{line: `$P run --rm $OF --uidmap 0:100000:65536 --gidmap 0:100000:65536 box:1 sh -c 'id -u; cat /proc/self/uid_map | tr -s " "; touch /x && ls -ln /x | tr -s " " | cut -d " " -f 3'`,
			out: "0\n 0 100000 65536\n0\n"},
		{line: `$P run --rm $OF --group-add 66 --umask 077 --user 7:8 box:1 sh -c 'id -G; umask'`, out: "8 66\n0077\n"},
		{line: `$P run --rm $OF --pid host --ipc host --uts host --cgroupns host box:1 readlink /proc/self/ns/uts`, out: "*"},
		{line: `$P run --rm $OF --ulimit nofile=100:200 --oom-score-adj 100 box:1 sh -c 'ulimit -n; cat /proc/self/oom_score_adj'`, out: "100\n100\n"},
		{line: `$P run --rm $OF --tmpfs /a:ro,size=1m,mode=700 -v $DIR:/a/b:ro box:1 sh -c 'ls -d /a/b/kube.yaml; touch /a/x || stat -c %a /a'`,
			out: "/a/b/kube.yaml\n700\n", says: "*"},
		{line: `$P run --rm $OF --read-only box:1 sh -c 'touch /tmp/x && touch /x || echo kept'`, out: "kept\n", says: "*"},
		{line: `$P run --rm $OF --cap-drop all --cap-add CHOWN box:1 grep CapEff /proc/self/status`, out: "CapEff:\t0000000000000001\n"},
		{line: `$P run --rm $OF --sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=9000 box:1 cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax`,
			out: "1\n9000\n"},
		{line: `$P run --rm $OF -v named:/w:noexec,nosuid,U box:1 grep -c ' /w .*nosuid.*noexec' /proc/self/mountinfo`, out: "1\n"},
		{line: `$P run --rm $OF --preserve-fds 1 box:1 sh -c 'cat /proc/self/fd/3' 3< containers.conf`, out: conf},
		{line: `$P run --rm $OF --entrypoint '["sh","-c"]' box:1 'exit 9'`, code: 9},

		{line: `$P run -d --name h --health-cmd 'test -e /healthy' --health-interval disable $OF box:1 sleep 1000`, out: "*"},
		{line: `$P healthcheck run h`, out: "*", says: "*", code: 1},
		{line: `$P exec h touch /healthy && $P healthcheck run h`},
		{line: `$P exec -d h touch /detached && until $P exec h test -e /detached; do :; done`, out: "*"},
		{line: `$P exec --preserve-fds 1 -e A=b -w /tmp -u 7:7 --privileged h sh -c 'id -u; echo $A; pwd; readlink /proc/self/fd/3 > /dev/null' 3< containers.conf`,
			out: "7\nb\n/tmp\n"},
		{line: `$P exec -e HOME=/zz h sh -c 'echo $HOME'`, out: "/zz\n"},
		{line: `$P cp kube.yaml h:/copied && $P exec h cat /copied`, out: kube},
		{line: `$P exec h nothere`, says: "executable file not found in $PATH", code: 127},
		{line: `$P exec h /etc`, says: "permission denied", code: 126},
		{line: `$P pause h && $P kill h && until [ $($P inspect -f '{{.State.Status}}' h) = exited ]; do :; done`, out: "h\nh\n"},
		{line: `$P rm h`, out: "h\n"},

		{line: `$P pod create --name pod --network none --cgroup-parent $PARENT --share net,uts,ipc,pid`, out: "*"},
		{line: `$P run -d --name in --pod pod box:1 sh -c 'sleep 7777 & sleep 7777'`, out: "*"},
		{line: `$P pod top pod args`, shows: []string{"sleep 1000", "sleep 7777"}},
		{line: `$P pod pause pod && $P pod unpause pod`, out: "*"},
		{line: `$P kill in && $P wait in`, out: "in\n137\n"},
		{line: `$P run --rm --pod pod box:1 sh -c 'until ! grep -l 7[7]77 /proc/[1-9]/cmdline /proc/[1-9][0-9]/cmdline; do :; done > /dev/null 2>&1'`},
		{line: `$P pod rm -f -t 0 pod`, out: "*", says: "*"},

		{line: `$P play kube --network none kube.yaml`, out: "*", says: "*"},
		{line: `until $P logs kube-a 2> /dev/null | grep -q ready; do :; done; $P logs kube-a`, out: "init\n7 8\n33554432\nready\n"},
		{line: `$P play kube --down kube.yaml`, out: "*", says: "*"},
	})
}

// podmanKube is a pod as Kubernetes' users write it.
const podmanKube = `apiVersion: v1
kind: Pod
metadata: {name: kube}
spec:
	restartPolicy: Never
	shareProcessNamespace: true
	initContainers:
	- {name: i, image: "localhost/box:1", command: [sh, -c, "echo init > /s/x"], volumeMounts: [{name: s, mountPath: /s}]}
	containers:
	- name: a
		image: localhost/box:1
		command: [sh, -c, "cat /s/x; echo $(id -u) $(id -g); cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max; echo ready; exec sleep 1000"]
		env: [{name: PATH, value: /bin}]
		volumeMounts: [{name: s, mountPath: /s, readOnly: true}]
		resources: {limits: {memory: 32Mi, cpu: 500m}}
		securityContext:
			runAsUser: 7
			runAsGroup: 8
			readOnlyRootFilesystem: true
			allowPrivilegeEscalation: false
			capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
	volumes: [{name: s, emptyDir: {}}]
`

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
