package e2e

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
	"golang.org/x/sys/unix"
)

// hostileUsers: a number is a number, whatever the image's files call a user (CVE-2016-3697, CVE-2026-46680), none is too large
// to be one (CVE-2024-40635), and none is cut short (CVE-2026-30892).
func hostileUsers(t *testing.T, h *hostile) {
	passwd := "root:x:0:0::/root:/bin/sh\n1000:x:0:0:trap:/root:/bin/sh\n1:x:0:0:trap:/root:/bin/sh\n" +
		"4294967296:x:0:0:trap:/root:/bin/sh\nsomeone:x:1234:1234::/home:/bin/sh\n"
	group := "root:x:0:\n1000:x:0:\n1:x:0:\n4294967296:x:0:\nwheel:x:10:someone\n"
	files := []entry{{name: "etc/passwd", kind: tar.TypeReg, text: passwd, mode: 0o644},
		{name: "etc/group", kind: tar.TypeReg, text: group, mode: 0o644}}
	h.image(t, "users", nil, files...)
	h.image(t, "users-number", map[string]any{"User": "1000:1000"}, files...)
	h.image(t, "users-large", map[string]any{"User": "4294967296"}, files...)
	const ids = ` sh -c 'id -u; id -g'`
	h.obey(t,
		step{line: `$D run --rm -u 1000:1000 users` + ids, out: "1000\n1000\n"},
		step{line: `$D run --rm -u 1000 users id -u`, out: "1000\n"},
		step{line: `$D run --rm users-number` + ids, out: "1000\n1000\n"},
		step{line: `$D run --rm -u 1:1 users` + ids, out: "1\n1\n"},
		step{line: `$D run --rm -u 2147483647 users id -u`, out: "2147483647\n"},
		step{line: `$D run --rm -u someone users id -u`, out: "1234\n"},
		step{line: `$D run --rm -u 4294967296 users id -u`, code: 125, err: "range"},
		step{line: `$D run --rm -u 4294968296 users id -u`, code: 125, err: "range"},
		step{line: `$D run --rm -u 18446744073709551616 users id -u`, code: 125, err: "range"},
		step{line: `$D run --rm -u 0:4294967296 users id -u`, code: 125, err: "range"},
		step{line: `$D run --rm -u -1 users id -u`, code: 125, err: "range"},
		step{line: `$D run --rm users-large id -u`, code: 125, err: "range"},
		step{line: `$D run -d --name users users sleep 100 | wc -c`, out: "65\n"},
		step{line: `$D exec -u 1000:1000 users` + ids, out: "1000\n1000\n"},
		step{line: `$D exec -u 1:1 users` + ids, out: "1\n1\n"},
		step{line: `$D exec -u someone users id -u`, out: "1234\n"},
		step{line: `$D exec -u 4294967296 users id -u`, code: 126, out: "~range"},
		step{line: `$D rm -f users`, out: "users\n"},
	)
}

// inheritedCapabilities: the inheritable and ambient sets are empty, in run and exec, so that a program with file
// capabilities gains none (CVE-2022-24769, CVE-2022-29162); a user that is not root has none (CVE-2018-10856).
func inheritedCapabilities(t *testing.T, h *hostile) {
	const sets = ` grep -E 'Cap(Inh|Amb)' /proc/self/status`
	const none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n"
	for _, flags := range []string{"", "--cap-add SYS_ADMIN", "--cap-add ALL -u 1000", "--privileged", "--privileged -u 1000"} {
		h.obey(t, step{line: `$D run --rm ` + flags + ` plain` + sets, out: none})
	}
	h.obey(t, step{line: `$D run -d --name caps --cap-add SYS_ADMIN plain sleep 100 | wc -c`, out: "65\n"})
	for _, flags := range []string{"", "-u 1000", "--privileged", "--privileged -u 1000"} {
		h.obey(t, step{line: `$D exec ` + flags + ` caps` + sets, out: none})
	}
	h.obey(t,
		step{line: `$D exec -u 1000 caps grep -E 'Cap(Prm|Eff)' /proc/self/status`, out: "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"},
		step{line: `$D rm -f caps`, out: "caps\n"},
	)
}

// leakedDescriptors: nothing of the host's is open in a container, and no working directory leads out of it by one
// (CVE-2024-21626, CVE-2016-9962).
func leakedDescriptors(t *testing.T, h *hostile) {
	h.run(t, `$D run --rm plain /probe fds`).Exits(0)
	three := regexp.MustCompile(`^0 \S+\n1 \S+\n2 \S+\n$`)
	h.obey(t, step{line: `$D run -dt --name fds --init plain sleep 100 | wc -c`, out: "65\n"})
	for _, line := range []string{`$D run --rm plain /probe fds`, `$D run --rm -i --init plain /probe fds </dev/null`,
		`$D exec fds /probe fds`, `$D exec -i fds /probe fds </dev/null`, `$D run --rm --privileged plain /probe fds`} {
		if r := h.run(t, line); !three.MatchString(r.Out) {
			t.Errorf("%s: descriptors other than 0, 1 and 2: %q %q", line, r.Out, r.Err)
		}
	}
	h.run(t, `$D exec fds sh -c 'ls /proc/1/fd | grep -vcx "[012]"'`).Exits(1)
	climb := "cat " + strings.Repeat("../", 20) + strings.TrimPrefix(h.bait, "/") + "/file; ls -a " + strings.Repeat("../", 20) + "proc/1"
	places := []string{"/proc/self/cwd", "/proc/self/root", "/proc/1/cwd", "/proc/thread-self/root"}
	for n := range 30 {
		places = append(places, fmt.Sprintf("/proc/self/fd/%d", n))
	}
	var runs, execs strings.Builder
	for _, place := range places {
		fmt.Fprintf(&execs, "$D exec -w %s fds sh -c '%s'\n", place, climb)
	}
	for _, place := range append(places[:4:4], places[4+3:4+16]...) {
		fmt.Fprintf(&runs, "$D run --rm -w %s plain sh -c '%s'\n", place, climb)
	}
	h.run(t, runs.String())
	h.run(t, execs.String())
	// The same place by way of the image: a link, and the image's own working directory.
	h.image(t, "workdir-fd", map[string]any{"WorkingDir": "/w"}, entry{name: "w", kind: tar.TypeSymlink, link: "/proc/self/fd/8"})
	h.image(t, "workdir-self", map[string]any{"WorkingDir": "/proc/self/fd/7/sub"})
	h.run(t, `$D run --rm workdir-fd sh -c '`+climb+`'; $D run --rm workdir-self sh -c '`+climb+`'`)
	h.obey(t, step{line: `$D rm -f fds`, out: "fds\n"})
}

// overwrittenRuntime: no container gets at the runtime's program, by /proc/self/exe or by a process that is on its way in
// (CVE-2019-5736, CVE-2016-9962).
func overwrittenRuntime(t *testing.T, h *hostile) {
	program := filepath.Join(h.d.Repo, "bin/berth-runtime")
	sum := func() [32]byte {
		data, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(data)
	}
	before := sum()
	h.image(t, "selfexe", map[string]any{"Entrypoint": []string{"/script"}},
		entry{name: "script", kind: tar.TypeReg, text: "#!/proc/self/exe\n"},
		entry{name: "bin/linked", kind: tar.TypeSymlink, link: "/proc/self/exe"}, h.probe)
	h.run(t, `timeout 60 $D run --rm selfexe; timeout 60 $D run --rm --entrypoint /proc/self/exe selfexe; timeout 60 $D run --rm --entrypoint linked selfexe`)
	for _, flags := range []string{"", "--init"} {
		h.obey(t, step{line: `$D run -d --name hunter ` + flags + ` selfexe --help >/dev/null; $D rm -f hunter; $D run -d --name hunter ` + flags +
			` --entrypoint /probe selfexe hunt | wc -c`, out: "~65\n$"})
		harness.Eventually(t, time.Minute, "the hunter hunts", func() bool {
			return strings.Contains(h.run(t, `$D logs hunter`).Out, "hunting")
		})
		h.run(t, `for i in 1 2 3 4 5 6 7 8 9 10; do $D exec hunter true; $D exec hunter /proc/self/exe; $D exec hunter /script; $D exec hunter linked; done; $D exec -t hunter true </dev/null`)
		h.run(t, `$D exec hunter touch /stop; $D wait hunter`).Prints("0\n")
		out := h.run(t, `$D logs hunter; $D rm -f hunter >/dev/null`).Out
		if !regexp.MustCompile(`seen [1-9]\d*\n`).MatchString(out) {
			t.Errorf("the hunter saw no process come in, so this shows nothing: %q", out)
		}
		if !strings.Contains(out, "written 0\ndescriptor 0\noutside 0\n") {
			t.Errorf("a container got through a process that came in (%s): %q", flags, out)
		}
	}
	// The init is the runtime's program: it is there to be read, never to be written.
	h.obey(t, step{line: `$D run --rm --init plain sh -c 'echo x >/proc/1/exe'`, code: 1},
		step{line: `$D run --rm --privileged --init plain sh -c 'echo x >/proc/1/exe'`, code: 1},
		step{line: `$D run --rm plain readlink /proc/1/exe`, out: "~^/bin/"})
	if sum() != before {
		t.Fatalf("%s was overwritten by a container", program)
	}
}

// hostileLinks: whatever stands in an image where the runtime mounts, makes or writes something, nothing happens outside of
// the container (CVE-2021-30465, CVE-2023-27561, CVE-2023-28642, CVE-2019-19921, CVE-2024-45310, CVE-2025-31133,
// CVE-2025-52565, CVE-2025-52881, CVE-2026-41579, CVE-2026-47766, CVE-2025-24965).
func hostileLinks(t *testing.T, h *hostile) {
	up := strings.Repeat("../", 20)
	link := func(name, to string) entry { return entry{name: name, kind: tar.TypeSymlink, link: to} }
	for i, entries := range [][]entry{
		{link("dev", h.bait)},
		{link("dev", up+h.bait)},
		{link("dev", "/proc/self/cwd")},
		{link("dev", "/proc/1/root"+h.bait)},
		{link("sys", h.bait)},
		{link("proc", h.bait)},
		{link("proc", "tmp")},
		{link("etc", h.bait)},
		{link("etc", up+h.bait), link("tmp", h.bait)},
		{link("etc/hosts", h.bait+"/file"), link("etc/hostname", up+h.bait+"/sub/new"), link("etc/resolv.conf", h.bait+"/new")},
		{link("etc/passwd", h.bait+"/passwd"), link("etc/group", up+h.bait+"/group")},
		{link("dev/null", h.bait+"/null"), link("dev/pts", h.bait), link("dev/console", h.bait+"/file"), link("dev/shm", h.bait), link("dev/mqueue", "/proc")},
		{link("dev/pts", "/proc"), link("dev/ptmx", h.bait+"/file"), link("dev/fd", h.bait)},
		{link("sys/fs", h.bait), link("sys/firmware", h.bait)},
		{{name: "dev", kind: tar.TypeReg, text: "a file"}},
		{{name: "proc/self/fd/3", kind: tar.TypeReg, text: "a file"}},
		{link(".krun_config.json", h.bait+"/file"), link("root", h.bait)},
		{link("mnt", h.bait), link("opt", "mnt/sub")},
	} {
		name := fmt.Sprintf("links%d", i)
		h.image(t, name, nil, entries...)
		// It is refused, or what the container has is a real one.
		const look = `'[ ! -e /dev/null ] || [ "$(stat -c %t:%T /dev/null)" = 1:3 ] || echo BAD null; cat /proc/kcore /proc/keys 2>/dev/null | grep -q . && echo BAD masks;` +
			` echo 1 2>/dev/null >/proc/sys/kernel/printk_ratelimit && echo BAD sys; cat /etc/hosts /etc/passwd /opt/* 2>/dev/null; true'`
		flags := ""
		if i == 17 {
			flags = "-v berth-links:/mnt/made -v $DIR/empty:/opt/made/deep --tmpfs /mnt/t -w /opt/w"
		}
		r := h.run(t, `$D run --rm `+flags+` `+name+` sh -c `+look)
		if strings.Contains(r.Out, "BAD") || r.Code != 0 && r.Code != 125 {
			t.Errorf("image %d: exit code %d, %q %q", i, r.Code, r.Out, r.Err)
		}
		r = h.run(t, `$D run -dt --name tty `+name+` sh -c 'echo on a terminal; sleep 0.1'; $D exec tty sh -c 'cat /etc/passwd'; $D exec -t tty tty </dev/null; $D wait tty; $D logs tty; $D rm -f tty`)
		if now := h.look(t); now != h.was {
			t.Fatalf("image %d reached the host: %s\nwas: %s", i, now, h.was)
		}
	}
	h.run(t, `$D volume rm -f berth-links; rmdir $DIR/empty`)
	// A link where later steps trust the place is refused outright.
	for _, n := range []string{"links4", "links5", "links6"} {
		h.run(t, `$D run --rm `+n+` true`).Exits(125).Complains("link")
	}
}

// maskedPaths: what shows or changes the host is hidden or read-only, after run and in exec (CVE-2017-16539, CVE-2018-10892,
// GHSA-7ww5-4wqc-m92c, GHSA-jq35-85cj-fj4p, CVE-2023-25809).
func maskedPaths(t *testing.T, h *hostile) {
	h.obey(t, step{line: `$D run -d --name masks plain sleep 100 | wc -c`, out: "65\n"})
	for _, run := range []string{`$D run --rm plain`, `$D exec masks`} {
		h.obey(t,
			step{line: run + ` sh -c 'for d in /proc/acpi /proc/scsi /proc/asound /sys/firmware /sys/devices/virtual/powercap; do ls -A $d 2>/dev/null; done; true'`},
			step{line: run + ` sh -c 'cat /proc/kcore /proc/keys /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/latency_stats /proc/interrupts 2>/dev/null'; true`},
			step{line: run + ` sh -c 'for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/release_agent; do (echo x >$f) 2>/dev/null && echo wrote $f; done; true'`},
			step{line: run + ` sh -c 'for d in /sys/fs/cgroup /sys/fs/cgroup/* /proc/sys /proc/sys/* /sys /sys/fs; do mkdir $d/made 2>/dev/null; [ -e $d/made ] && echo made $d; done; true'`},
		)
	}
	// The host has these, so that the lines above mean something.
	for _, p := range []string{"/proc/kcore", "/proc/keys", "/proc/interrupts", "/sys/firmware", "/sys/devices/virtual/powercap"} {
		if !fileExists(p) {
			t.Logf("this kernel has no %s: nothing was shown of it", p)
		}
	}
	h.obey(t, step{line: `$D rm -f masks`, out: "masks\n"})
}

// undeclaredDevices: a container may make device nodes but not open those that it was not given (GHSA-g54h-m393-cpwq).
func undeclaredDevices(t *testing.T, h *hostile) {
	nodes := []string{"b 7 0", "c 1 1", "c 1 2", "c 1 4", "c 1 11", "c 10 229", "c 10 237", "c 4 0", "c 29 0"}
	data, err := os.ReadFile("/proc/partitions")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 4 && f[0] != "major" {
			nodes = append(nodes, "b "+f[0]+" "+f[1])
		}
	}
	var make, files, want strings.Builder
	for i, n := range nodes {
		fmt.Fprintf(&make, "mknod /tmp/%d %s && ", i, n)
		fmt.Fprintf(&files, " /tmp/%d", i)
		fmt.Fprintf(&want, "/tmp/%d EPERM\n", i)
	}
	h.obey(t,
		step{line: `$D run --rm plain sh -c '` + make.String() + `/probe open` + files.String() + `'`, out: want.String()},
		step{line: `$D run -d --name devices plain sleep 100 | wc -c`, out: "65\n"},
		step{line: `$D exec devices sh -c '` + make.String() + `/probe open` + files.String() + `'`, out: want.String()},
		step{line: `$D exec --privileged devices /probe open` + files.String(), out: want.String()}, // its cgroup is what it was
		step{line: `$D rm -f devices`, out: "devices\n"},
		step{line: `$D run --rm --device /dev/null:/dev/given:r plain sh -c 'cat /dev/given; (echo x >/dev/given) 2>/dev/null && echo wrote; mknod /tmp/n c 1 3 && /probe open /tmp/n /dev/zero'`,
			out: "~/tmp/n ok\n/dev/zero ok\n$"},
	)
}

// supplementaryGroups: a process has the groups its user has and no others, the primary one among them (CVE-2022-36109,
// CVE-2023-25173, CVE-2022-2989, CVE-2022-2990).
func supplementaryGroups(t *testing.T, h *hostile) {
	const groups = ` sh -c 'grep Groups: /proc/self/status | tr -s "\t " " "'`
	h.obey(t,
		step{line: `$D run --rm -u 1000:1000 users` + groups, out: "Groups: 1000 \n"},
		step{line: `$D run --rm -u someone users` + groups, out: "Groups: 10 1234 \n"},
		step{line: `$D run --rm -u 1234:77 users` + groups, out: "Groups: 77 \n"},
		step{line: `$D run --rm -u 1000:1000 --group-add 55 --group-add wheel users` + groups, out: "Groups: 10 55 1000 \n"},
		step{line: `$D run -d --name groups users sleep 100 | wc -c`, out: "65\n"},
		step{line: `$D exec -u someone groups` + groups, out: "Groups: 10 1234 \n"},
		step{line: `$D exec -u 1000:1000 groups` + groups, out: "Groups: 1000 \n"},
		step{line: `$D rm -f groups`, out: "groups\n"},
	)
}

// identityFiles: a huge /etc/passwd, a pipe or a device in its place neither blocks nor fills the daemon (CVE-2026-47262).
func identityFiles(t *testing.T, h *hostile) {
	for i, e := range []entry{
		{name: "etc/passwd", kind: tar.TypeFifo}, {name: "etc/group", kind: tar.TypeFifo},
		{name: "etc/passwd", kind: tar.TypeDir}, {name: "etc/group", kind: tar.TypeChar},
		{name: "etc/passwd", kind: tar.TypeReg, text: strings.Repeat("x:x:1:1:::\n", 1<<20)},
		{name: "etc/passwd", kind: tar.TypeSymlink, link: "/proc/self/fd/0"},
		{name: "etc/passwd", kind: tar.TypeSymlink, link: "passwd"},
	} {
		name := fmt.Sprintf("identity%d", i)
		h.image(t, name, nil, e)
		h.run(t, `timeout 60 $D run --rm -u x `+name+` true`).Exits(125)
	}
	// The container itself puts a pipe there, then somebody comes in by exec, with a user to look up, or without HOME.
	h.obey(t, step{line: `$D run -d --name pipes plain sh -c 'rm /etc/passwd /etc/group; mkfifo /etc/passwd /etc/group; echo ready; sleep 100' | wc -c`, out: "65\n"})
	harness.Eventually(t, time.Minute, "the pipes are there", func() bool { return h.run(t, `$D logs pipes`).Out == "ready\n" })
	h.run(t, `timeout 60 $D exec -u someone pipes true`).Exits(126)
	if r := h.run(t, `timeout 60 $D exec pipes true`); r.Code == 124 {
		t.Error("exec without a user waits for a pipe")
	}
	h.obey(t, step{line: `$D rm -f pipes`, out: "pipes\n"})
}

// leakedEnvironment: an image's variable without a value never becomes the host's (CVE-2026-57231), and no container gets the
// variables of another of the same image (CVE-2021-21334, CVE-2020-14370).
func leakedEnvironment(t *testing.T, h *hostile) {
	h.image(t, "env", map[string]any{"Env": []string{h.hidden, "BERTH_TEST_*", "*", "PATH", "", "=", "=x", "GOOD=1", "A=b=c"}})
	r := h.run(t, `$D run --rm env env`)
	r.Exits(0).Shows("GOOD=1\n", "A=b=c\n")
	for line := range strings.Lines(r.Out) {
		name, _, _ := strings.Cut(line, "=")
		if !slices.Contains([]string{"PATH", "HOSTNAME", "HOME", "GOOD", "A"}, name) {
			t.Errorf("a variable from nowhere: %q", line)
		}
	}
	h.run(t, `$D run --rm -e ONE=1 -e GOOD=changed env true`).Exits(0)
	h.obey(t,
		step{line: `$D run -d --name env -e ONLY_HERE=1 env sleep 100 | wc -c`, out: "65\n"},
		step{line: `$D exec -e ONLY_EXEC=1 env true`},
		step{line: `$D exec env env | sort | cut -d= -f1 | tr '\n' ' '`, out: "A GOOD HOME HOSTNAME ONLY_HERE PATH "},
		step{line: `$D run --rm env env | sort | cut -d= -f1 | tr '\n' ' '`, out: "A GOOD HOME HOSTNAME PATH "},
		step{line: `$D run --rm env sh -c 'echo $GOOD$ONE$ONLY_HERE'`, out: "1\n"},
		step{line: `$D rm -f env`, out: "env\n"},
	)
}

// reservedLabels: what an image says of itself in labels and annotations never steers the runtime (CVE-2026-53488).
func reservedLabels(t *testing.T, h *hostile) {
	marker := filepath.Join(h.d.Dir, "marker")
	script := filepath.Join(h.d.Dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho ran >"+marker+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"dev.berth.init": "true", "io.containerd.runc.v2.group": "x", "containerd.io/restart.loguri": "binary://" + script,
		"containerd.io/restart.status": "running", "containerd.io/gc.root": "x", "containerd.io/gc.ref.snapshot.overlayfs": "x",
		"org.opencontainers.runtime-spec.hooks": script, "run.oci.hooks.stdout": script, "com.docker.network.driver": "host"}
	h.image(t, "labels", map[string]any{"Labels": labels, "Annotations": labels})
	h.obey(t,
		step{line: `$D run --rm labels sh -c 'echo $$; [ -w /proc/sys/kernel ] && echo writable; true'`, out: "1\n"},
		step{line: `$D run -d --name labels labels sleep 0.1 | wc -c; $D wait labels`, out: "65\n0\n"},
		step{line: `$D inspect -f '{{.HostConfig.LogConfig.Type}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.NetworkMode}}' labels`,
			out: "~^json-file (no)? ?(default|bridge)\n$"},
		step{line: `$D rm labels`, out: "labels\n"},
	)
	if fileExists(marker) {
		t.Error("a label of an image ran a program on the host")
	}
}

// hostileWorkdir: the working directory is made inside the container, whatever links lead there (CVE-2026-55686,
// CVE-2024-45310).
func hostileWorkdir(t *testing.T, h *hostile) {
	h.image(t, "workdir", map[string]any{"WorkingDir": "/w/made/here", "User": "1000"},
		entry{name: "w", kind: tar.TypeSymlink, link: h.bait})
	h.image(t, "workdir-up", map[string]any{"WorkingDir": "/w/made/here", "User": "1000"},
		entry{name: "w", kind: tar.TypeSymlink, link: strings.Repeat("../", 20) + h.bait + "/sub"})
	h.obey(t,
		step{line: `$D run --rm workdir pwd`, out: h.bait + "/made/here\n"},
		step{line: `$D run --rm workdir-up pwd`, out: h.bait + "/sub/made/here\n"},
		step{line: `$D run --rm -w /w/../../../../../x workdir pwd`, out: "/x\n"},
		step{line: `$D run -d --name workdir workdir sleep 100 | wc -c`, out: "65\n"},
		step{line: `$D exec -w /w workdir pwd`, out: h.bait + "\n"},
	)
	h.run(t, `$D exec -w /w/sub workdir cat file; $D exec -w /w/sub/../file workdir cat; $D rm -f workdir`)
}

// forbiddenCalls: the default seccomp profile forbids what Docker's does; and a container has a session keyring of its own.
func forbiddenCalls(t *testing.T, h *hostile) {
	// What a process of a container without any filter gets for the same calls, so that a filter that is missing shows.
	open := h.run(t, `$D run --rm --security-opt seccomp=unconfined plain /probe calls`).Out
	for _, name := range []string{"keyctl", "unshare-user"} {
		if !strings.Contains(open, name+" ok\n") {
			t.Logf("%s fails without a filter, too: nothing is shown by it: %q", name, open)
		}
	}
	h.obey(t, step{line: `$D run -d --name calls plain sleep 100 | wc -c`, out: "65\n"})
	for _, line := range []string{`$D run --rm plain /probe calls`, `$D run --rm -u 1000 plain /probe calls`, `$D exec calls /probe calls`,
		`$D run --rm --security-opt no-new-privileges plain /probe calls`} {
		out := h.run(t, line).Exits(0).Out
		n := 0
		for l := range strings.Lines(out) {
			name, errno, _ := strings.Cut(strings.TrimSpace(l), " ")
			want := "EPERM"
			if name == "clone3" {
				want = "ENOSYS" // so that libraries fall back on clone, whose flags a filter can see
			}
			if n++; errno != want {
				t.Errorf("%s: %s: got %s, wanted %s", line, name, errno, want)
			}
		}
		if n < 25 {
			t.Errorf("%s: the probe tried %d calls only: %q", line, n, out)
		}
	}
	h.obey(t, step{line: `$D rm -f calls`, out: "calls\n"})
	const ring = `$D run --rm --security-opt seccomp=unconfined plain /probe keyring`
	one, two := h.run(t, ring).Exits(0).Out, h.run(t, ring).Exits(0).Out
	own, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		t.Logf("this process has no session keyring: %v", err)
	}
	if one == two || !strings.HasSuffix(one, " ok\n") || one == fmt.Sprintf("%d ok\n", own) {
		t.Errorf("session keyrings of two containers: %q and %q; of this process: %d", one, two, own)
	}
}

// hostProcesses: a container neither sees nor signals processes of the host, and sees no sockets of its monitor.
func hostProcesses(t *testing.T, h *hostile) {
	h.obey(t,
		step{line: fmt.Sprintf(`$D run --rm plain /probe kill %d`, h.d.Pid), out: "ESRCH\n"},
		step{line: fmt.Sprintf(`$D run --rm plain sh -c 'ls -d /proc/%d'`, h.d.Pid), code: 1, err: "no such file"},
		step{line: `$D run --rm plain sh -c 'ls -d /proc/[0-9]* | wc -l'`, out: "~^[1-3]\n$"},
		step{line: `$D run --rm plain sh -c 'grep -c @ /proc/net/unix'`, code: 1, out: "0\n"},
		step{line: `$D run --rm --ipc none plain sh -c 'echo $(ls /dev/shm 2>/dev/null | wc -l)'`, out: "0\n"},
		step{line: `$D run --rm plain sh -c 'readlink /proc/1/root /proc/1/cwd'`, out: "/\n/\n"},
	)
}

// onlyPrivileged: full capabilities come with --privileged alone. An exec with --privileged has them too, but the filter, the
// devices and no-new-privileges stay the container's.
func onlyPrivileged(t *testing.T, h *hostile) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	full := regexp.MustCompile(`CapPrm:\t([0-9a-f]+)`).FindStringSubmatch(string(data))[1]
	const eff = ` sh -c 'grep CapEff /proc/self/status | cut -f2'`
	const status = ` sh -c 'grep -E "^(NoNewPrivs|Seccomp):" /proc/self/status | cut -f2 | tr "\n" " "'`
	h.obey(t,
		step{line: `$D run --rm plain` + eff, out: "00000000a80425fb\n"},
		step{line: `$D run --rm --privileged plain` + eff, out: full + "\n"},
		step{line: `$D run --rm --security-opt no-new-privileges plain` + status, out: "1 2 "},
		step{line: `$D run --rm --security-opt no-new-privileges -u 1000 plain` + status, out: "1 2 "},
		step{line: `$D run -d --name priv --security-opt no-new-privileges plain sleep 100 | wc -c`, out: "65\n"},
		step{line: `$D exec priv` + status, out: "1 2 "},
		step{line: `$D exec priv` + eff, out: "00000000a80425fb\n"},
		step{line: `$D exec --privileged priv` + eff, out: full + "\n"},
		step{line: `$D exec --privileged priv` + status, out: "1 2 "},
		step{line: `$D rm -f priv`, out: "priv\n"},
	)
}
