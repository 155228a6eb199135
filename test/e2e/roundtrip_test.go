package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// oddTree makes a root directory with everything that a layer can carry, on the userland that ships with Berth.
func oddTree(t *testing.T, repo, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-xzf", filepath.Join(repo, "internal/image/builtin/files/rootfs.tar.gz"), "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	long := strings.Repeat("long/", 30) + strings.Repeat("n", 120)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"odd/sub", "odd/opaque/deep", "odd/gone", "odd/sgid", "odd/sticky", filepath.Dir("odd/" + long)} {
		must(os.MkdirAll(path(name), 0o755))
	}
	for name, text := range map[string]string{
		"odd/plain": "plain\n", "odd/setuid": "s", "odd/setgid": "s", "odd/owned": "o", "odd/empty": "", "odd/xattr": "x",
		"odd/cap": "c", "odd/kept-xattr": "k", "odd/link1": "linked\n", "odd/opaque/below": "b", "odd/opaque/deep/below": "b", "odd/gone/below": "b",
		"odd/removed": "r", "odd/ümläut ☃": "u", "odd/new\nline": "n", "odd/" + long: "l", "odd/-dash": "d", "odd/to-dir": "t",
	} {
		must(os.WriteFile(path(name), []byte(text), 0o640))
	}
	must(os.Link(path("odd/link1"), path("odd/sub/link2")))
	must(os.Link(path("odd/link1"), path("odd/link3")))
	must(os.Symlink("../plain", path("odd/sub/soft")))
	must(os.Symlink("/no/where", path("odd/broken")))
	must(os.Symlink("sub", path("odd/softdir")))
	must(os.Lchown(path("odd/broken"), 7, 8))
	must(os.Chown(path("odd/owned"), 70_000, 3_000_000))
	must(os.Chown(path("odd/sgid"), 12, 34))
	for name, mode := range map[string]uint32{"odd/setuid": 0o4711, "odd/setgid": 0o2755, "odd/sgid": 0o2770, "odd/sticky": 0o1777, "odd/empty": 0} {
		must(unix.Chmod(path(name), mode))
	}
	must(unix.Mknod(path("odd/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(path("odd/high"), unix.S_IFCHR|0o600, int(unix.Mkdev(511, 70_000))))
	must(unix.Mknod(path("odd/block"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 200))))
	must(unix.Mkfifo(path("odd/fifo"), 0o622))
	must(unix.Setxattr(path("odd/xattr"), "user.colour", []byte("red\x00\xff"), 0))
	must(unix.Setxattr(path("odd/kept-xattr"), "user.kept", []byte("yes"), 0))
	must(unix.Setxattr(path("odd/sub"), "user.dir", []byte("d"), 0))
	// cap_net_bind_service+ep, revision 2
	must(unix.Setxattr(path("odd/cap"), "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	sparse, err := os.Create(path("odd/sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("in the middle"), 4<<20)
	must(err)
	must(sparse.Truncate(9 << 20))
	must(sparse.Close())
	old := time.Unix(1_000_000_000, 0)
	must(os.Chtimes(path("odd/plain"), old, old))
}

// oddChanges is what a second layer does to it.
const oddChanges = `set -e; cd /odd
rm -r gone removed; rm -r opaque; mkdir opaque; echo new >opaque/new; rm to-dir; mkdir to-dir; echo in >to-dir/in
echo more >>plain; chmod 4755 plain; chmod 600 setgid; chown 9:10 setuid; chmod 6755 setuid; echo y >>kept-xattr
ln kept-xattr sub/link4; echo z >twin; ln twin sub/twin; ln -s twin soft; mkfifo fifo2; mknod zero c 1 5; chown 5:6 fifo fifo2 zero
rm softdir; mkdir softdir; echo a >softdir/a; rm -r sgid; echo file >sgid; mkdir -m 1770 sticky2; chown 70001:70002 sub
touch -d 2001-02-03T04:05:06Z twin sub`

// podmanOwn is the root directory, which Podman gives a mode of its own.
func podmanOwn(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return strings.HasPrefix(line, `"/" `) })
}

// listing tells of every file below a root what a layer carries of it: one line each. Leave out what engines put into
// a container themselves.
func listing(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	first := map[uint64]int{} // of the hard links, the line
	skip := []string{"/proc", "/sys", "/dev", "/.dockerenv", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/run"}
	err := filepath.WalkDir(root, func(full string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(full, root), "/")
		if slices.Contains(skip, name) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(full, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%q %o %d:%d", name, st.Mode, st.Uid, st.Gid)
		// The engines put mount points into the root directory and into /etc.
		if name != "/" && name != "/etc" {
			line += fmt.Sprintf(" t%d", st.Mtim.Sec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			f, err := os.Open(full)
			if err != nil {
				return err
			}
			h := sha256.New()
			_, err = io.Copy(h, f)
			f.Close()
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d bytes %s", st.Size, hex.EncodeToString(h.Sum(nil)[:8]))
			if st.Nlink > 1 {
				// Names are counted, not links: of a file in a lower layer, overlay counts hidden ones too.
				if i, ok := first[st.Ino]; ok {
					out[i] += fmt.Sprintf(" = %q", name)
				} else {
					first[st.Ino] = len(out)
				}
			}
		case unix.S_IFLNK:
			to, err := os.Readlink(full)
			if err != nil {
				return err
			}
			line += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		buf := make([]byte, 64<<10)
		n, err := unix.Llistxattr(full, buf)
		if err != nil {
			return fmt.Errorf("llistxattr %s: %w", full, err)
		}
		names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
		slices.Sort(names)
		for _, key := range names {
			if key == "" || strings.HasPrefix(key, "trusted.") { // overlay's own
				continue
			}
			value := make([]byte, 4096)
			n, err := unix.Lgetxattr(full, key, value)
			if err != nil {
				return fmt.Errorf("lgetxattr %s %s: %w", full, key, err)
			}
			line += fmt.Sprintf(" %s=%q", key, value[:n])
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sameFiles fails the test with what differs between two listings.
func sameFiles(t *testing.T, who string, got, want []string) {
	t.Helper()
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: missing %s", who, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: instead %s", who, line)
		}
	}
}

// debianDocker starts Debian's dockerd with roots of its own and returns its socket. It has no networks, unless there are arguments
// about them.
func debianDocker(t *testing.T, d *harness.Daemon, networks ...string) string {
	t.Helper()
	if len(networks) == 0 {
		networks = []string{"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"}
	}
	dir, err := os.MkdirTemp("", "brd") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	group := d.Cgroup + "-docker"
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "d.sock")
	cmd := exec.Command("dockerd", append([]string{"--data-root", dir + "/data", "--exec-root", dir + "/run", "--pidfile", dir + "/pid",
		"-H", "unix://" + socket, "--cgroup-parent", group}, networks...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.ShellT(t, d.Berth(), "export DOCKER_HOST=unix://"+socket+"; docker ps -aq | xargs -r docker rm -f").Exits(0)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // how it ended does not matter
		log.Close()
		if t.Failed() {
			if text, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("dockerd said: %s", text[max(0, len(text)-4000):])
			}
		}
		_ = unix.Unmount(dir+"/run/netns/default", unix.MNT_DETACH)
		removeGroups(group)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	harness.Eventually(t, 2*time.Minute, "dockerd answers", func() bool {
		return exec.Command("docker", "-H", "unix://"+socket, "version").Run() == nil
	})
	return socket
}

// removeGroups removes a cgroup with those below it, in every hierarchy.
func removeGroups(group string) {
	places, _ := filepath.Glob("/sys/fs/cgroup/*" + group)
	more, _ := filepath.Glob("/sys/fs/cgroup" + group)
	for _, top := range append(places, more...) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, dir := range dirs {
			_ = os.Remove(dir)
		}
	}
}

// TestRoundTrips: an image with every kind of file goes through the programs of others and comes back: the same digests
// and the same files, whoever unpacks it.
func TestRoundTrips(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "skopeo", "umoci", "podman", "docker-registry", "dockerd", "docker", "tar")
	d := harness.Start(t)
	b := d.Berth()
	run := func(t *testing.T, line string) string {
		t.Helper()
		return strings.TrimSpace(d.ShellT(t, b, "set -e; "+line).Exits(0).Out)
	}
	// files is what a container of an image sees.
	files := func(t *testing.T, client, image string) []string {
		t.Helper()
		run(t, client+" run -d --network none --name see "+image+" sleep 1000")
		defer run(t, client+" rm -f see")
		return listing(t, "/proc/"+run(t, client+" inspect -f '{{.State.Pid}}' see")+"/root/")
	}
	const inspect = " image inspect -f '{{.Id}} {{json .RootFS.Layers}} {{json .Config}}' "

	tree := filepath.Join(d.Dir, "tree")
	oddTree(t, d.Repo, tree)
	base := listing(t, tree)
	// Docker cannot give back a layer in one of the sparse formats, so those come first and for themselves.
	for _, options := range []string{"--format=gnu --sparse", "--format=pax --sparse --xattrs --xattrs-include='*'",
		"--format=pax --sparse --sparse-version=0.0 --xattrs --xattrs-include='*'", "--format=pax --xattrs --xattrs-include='*'"} {
		run(t, "tar "+options+" --numeric-owner -C "+tree+" -cf $DIR/base.tar .; $D import -c 'CMD [\"sleep\", \"1000\"]' -c 'LABEL a=b' $DIR/base.tar odd:base")
		want := base
		if strings.Contains(options, "gnu") { // which has no xattrs
			want = nil
			for _, line := range base {
				line, _, _ = strings.Cut(line, " user.")
				line, _, _ = strings.Cut(line, " security.")
				want = append(want, line)
			}
		}
		sameFiles(t, "import of tar "+options, files(t, "$D", "odd:base"), want)
	}
	run(t, "$D run --name changed odd:base sh -c '"+oddChanges+"'; $D commit -a me -m two changed odd:1; $D rm changed")
	t.Run("commit", func(t *testing.T) {
		// The same changes without an engine: the same files, but for what their time is.
		run(t, "chroot "+tree+" /bin/sh -c '"+oddChanges+"'")
		timeless := func(lines []string) (out []string) {
			for _, l := range lines {
				fields := strings.Split(l, " ")
				out = append(out, strings.Join(slices.DeleteFunc(fields, func(f string) bool { return len(f) > 3 && f[0] == 't' && strings.Trim(f[1:], "-0123456789") == "" }), " "))
			}
			return out
		}
		sameFiles(t, "commit", timeless(files(t, "$D", "odd:1")), timeless(listing(t, tree)))
	})
	want := files(t, "$D", "odd:1")
	id := run(t, "$D"+inspect+"odd:1")
	holes := func(t *testing.T, root string) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(root+"/odd/sparse", &st); err != nil || st.Blocks > 4096 {
			t.Errorf("odd/sparse of 9 MiB takes %d blocks, %v", st.Blocks, err)
		}
	}
	run(t, "$D run -d --name holes odd:1 sleep 1000")
	holes(t, "/proc/"+run(t, "$D inspect -f '{{.State.Pid}}' holes")+"/root")
	run(t, "$D rm -f holes")
	// back checks that what came back to Berth as odd:1 is what left.
	back := func(t *testing.T) {
		t.Helper()
		if got := run(t, "$D"+inspect+"odd:1"); got != id {
			t.Errorf("came back as\n%s\nand left as\n%s", got, id)
		}
		sameFiles(t, "back at berth", files(t, "$D", "odd:1"), want)
	}
	away := "$D rmi odd:1; "

	t.Run("skopeo and umoci", func(t *testing.T) {
		run(t, "$D save -o $DIR/odd.tar odd:1")
		run(t, "skopeo copy -q --preserve-digests oci-archive:$DIR/odd.tar oci:$DIR/layout:1")
		run(t, "umoci unpack --image $DIR/layout:1 $DIR/bundle")
		sameFiles(t, "umoci", listing(t, filepath.Join(d.Dir, "bundle/rootfs")), want)
		run(t, "skopeo copy -q --preserve-digests oci:$DIR/layout:1 oci-archive:$DIR/back.tar:odd:1; "+away+"$D load -i $DIR/back.tar")
		back(t)
		// As a Docker archive, to it and from it: the digest of the configuration stays.
		config := run(t, "skopeo inspect --config --raw oci:$DIR/layout:1 | sha256sum")
		run(t, "skopeo copy -q docker-archive:$DIR/odd.tar:odd:1 docker-archive:$DIR/docker.tar:odd:2; $D load -i $DIR/docker.tar; $D save -o $DIR/again.tar odd:2")
		if got := run(t, "skopeo inspect --config --raw docker-archive:$DIR/again.tar | sha256sum"); got != config {
			t.Errorf("configuration %s, left as %s", got, config)
		}
		sameFiles(t, "docker archive", files(t, "$D", "odd:2"), want)
		run(t, "$D rmi odd:2")
	})

	t.Run("what umoci made", func(t *testing.T) {
		run(t, "umoci unpack --image $DIR/layout:1 $DIR/work; rm -r $DIR/work/rootfs/odd/opaque $DIR/work/rootfs/odd/plain; mkdir $DIR/work/rootfs/odd/opaque; echo u >$DIR/work/rootfs/odd/opaque/u; touch -d 2020-01-01 $DIR/work/rootfs/odd/opaque/u $DIR/work/rootfs/odd/opaque $DIR/work/rootfs/odd; umoci repack --image $DIR/layout:2 $DIR/work")
		want := listing(t, filepath.Join(d.Dir, "work/rootfs"))
		run(t, "skopeo copy -q --preserve-digests oci:$DIR/layout:2 oci-archive:$DIR/umoci.tar:odd:umoci; $D load -i $DIR/umoci.tar")
		sameFiles(t, "berth", files(t, "$D", "odd:umoci"), want)
		digest := run(t, "skopeo inspect --raw oci:$DIR/layout:2 | sha256sum")[:64]
		if got := run(t, "$D image inspect -f '{{.Id}}' odd:umoci"); got != "sha256:"+digest {
			t.Errorf("umoci's digest is %s, berth's %s", digest, got)
		}
		run(t, "$D rmi odd:umoci")
	})

	for name, serve := range map[string]func(t *testing.T) string{
		"berth registry":  func(t *testing.T) string { h, _ := serveImages(t, d, filepath.Join(d.Dir, "images")); return h },
		"docker-registry": func(t *testing.T) string { return registry(t, t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			host := serve(t)
			run(t, "$D tag odd:1 "+host+"/odd:1; $D push -q "+host+"/odd:1")
			digest, _, _ := strings.Cut(id, " ")
			if got := run(t, "skopeo inspect --raw --tls-verify=false docker://"+host+"/odd:1 | sha256sum")[:64]; "sha256:"+got != digest {
				t.Errorf("the registry has %s", got)
			}
			run(t, "$D rmi odd:1 "+host+"/odd:1; $D pull -q "+host+"/odd:1@"+digest+"; $D tag "+host+"/odd@"+digest+" odd:1")
			back(t)
			// From one registry to another by skopeo, and back to us.
			run(t, "skopeo copy -q --preserve-digests --src-tls-verify=false --dest-tls-verify=false docker://"+host+"/odd:1 docker://"+host+"/far/odd:2; "+
				"$D rmi odd:1 "+host+"/odd@"+digest+"; $D pull -q "+host+"/far/odd:2; $D tag "+host+"/far/odd:2 odd:1; $D rmi "+host+"/far/odd:2")
			back(t)
			podman := "env -u DOCKER_CONFIG podman --root $DIR/podman --runroot $DIR/podman-run --storage-driver overlay "
			defer run(t, podman+"image umount -a -f; "+podman+"rmi -a -f; umount $DIR/podman/overlay || true")
			run(t, podman+"pull -q --tls-verify=false "+host+"/odd:1")
			sameFiles(t, "podman", podmanOwn(listing(t, run(t, podman+"image mount "+host+"/odd:1"))), podmanOwn(want))
			if got := run(t, podman+"image inspect -f '{{.Digest}}' "+host+"/odd:1"); got != digest {
				t.Errorf("podman has the digest %s", got)
			}
		})
	}

	t.Run("docker", func(t *testing.T) {
		docker := "docker -H unix://" + debianDocker(t, d)
		run(t, "$D save odd:1 | "+docker+" load")
		sameFiles(t, "docker", files(t, docker, "odd:1"), want)
		config := run(t, "skopeo inspect --config --raw oci:$DIR/layout:1 | sha256sum")[:64]
		if got := run(t, docker+" image inspect -f '{{.Id}}' odd:1"); got != "sha256:"+config {
			t.Errorf("docker's ID is %s, the configuration's digest %s", got, config)
		}
		// And back: it writes the layers anew without compression, so what stays is the configuration with the layers' own digests.
		_, rest, _ := strings.Cut(id, " ")
		run(t, docker+" save -o $DIR/debian.tar odd:1; "+away+"$D load -i $DIR/debian.tar")
		if _, got, _ := strings.Cut(run(t, "$D"+inspect+"odd:1"), " "); got != rest {
			t.Errorf("came back as\n%s\nand left as\n%s", got, rest)
		}
		sameFiles(t, "back from docker", files(t, "$D", "odd:1"), want)
		// What docker commits, berth loads, and pulls after docker pushed it.
		run(t, docker+" run --name made odd:1 sh -c 'rm -r /odd/opaque /odd/twin && mkdir /odd/opaque && chmod 2711 /odd/cap && echo d >/odd/docker'; "+docker+" commit made odd:docker")
		made := files(t, docker, "odd:docker")
		run(t, docker+" save odd:docker | $D load")
		sameFiles(t, "made by docker, loaded", files(t, "$D", "odd:docker"), made)
		host, _ := serveImages(t, d, filepath.Join(d.Dir, "pushed"))
		run(t, docker+" tag odd:docker "+host+"/odd:docker; "+docker+" push -q "+host+"/odd:docker; $D pull -q "+host+"/odd:docker")
		sameFiles(t, "made by docker, pulled", files(t, "$D", host+"/odd:docker"), made)
		digest := run(t, docker+" image inspect -f '{{index .RepoDigests 0}}' odd:docker")
		if got := run(t, "$D image inspect -f '{{index .RepoDigests 0}}' "+host+"/odd:docker"); got != digest {
			t.Errorf("docker's digest is %s, berth's %s", digest, got)
		}
	})
}

// TestPlatforms: an image of two platforms comes in and goes out whole or in part, with each client that knows platforms.
func TestPlatforms(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "skopeo")
	d := harness.Start(t)
	b := d.Berth()
	d.Must(`mkdir amd arm; for a in amd arm; do echo $a >$a/arch; tar -C $a -cf $a.tar arch; $D import --platform linux/${a}64 $a.tar $a:1; done`)
	d.Must(`$D save amd:1 arm:1 | tar -x --one-top-level=both`)
	twoPlatforms(t, filepath.Join(d.Dir, "both"))
	d.Must(`tar -C both -cf both.tar . && $D rmi amd:1 arm:1`)
	for _, c := range d.Clients() {
		if c.Name == "docker-20" {
			continue // its API has one platform an image
		}
		manifests := `$D image inspect both:1 >/dev/null && curl -s --unix-socket ` + d.Socket + ` 'http://d/v1.48/images/both:1/json?manifests=1' | tr ',' '\n' | grep -c '"Available":true'`
		d.ShellT(t, c, `$D load -i both.tar && `+manifests).Exits(0).Shows("Loaded image: both:1", "\n2\n")
		id := d.Must(`$D image inspect -f '{{.Id}}' both:1`)
		d.ShellT(t, c, `$D image inspect --platform linux/arm64 -f '{{.Architecture}}' both:1`).Prints("arm64\n")
		d.ShellT(t, c, `$D image inspect --platform linux/s390x both:1`).Exits(1).Complains("does not provide the specified platform")
		d.ShellT(t, c, `$D history -q --platform linux/arm64 both:1 | wc -l`).Prints("1\n")
		d.ShellT(t, c, `$D images --tree both:1`).Exits(0).Shows("linux/amd64", "linux/arm64")
		d.ShellT(t, c, `$D save --platform linux/s390x -o none.tar both:1; test ! -s none.tar`).Exits(0)
		d.ShellT(t, c, `$D save -o whole.tar both:1 && $D save --platform linux/arm64 -o arm-only.tar both:1 && $D rmi both:1 && $D load -i whole.tar`).Exits(0)
		if got := d.Must(`$D image inspect -f '{{.Id}}' both:1`); got != id {
			t.Errorf("%s: saved %s, loaded %s", c.Name, id, got)
		}
		d.ShellT(t, c, `$D rmi both:1 && $D load -i arm-only.tar && $D image inspect -f '{{.Architecture}} {{.Id}}' both:1`).Shows("arm64 sha256:")
		d.ShellT(t, b, `skopeo inspect --raw --override-arch arm64 oci-archive:arm-only.tar | sha256sum | cut -c1-64`).Prints(
			strings.TrimPrefix(d.Must(`$D image inspect -f '{{.Id}}' both:1`), "sha256:") + "\n")
		d.ShellT(t, c, `$D rmi both:1 && $D load --platform linux/amd64 -i both.tar && `+manifests).Shows("\n1\n")
		d.ShellT(t, c, `$D rmi both:1`).Exits(0)
	}
	d.Must(`$D load -i both.tar && $D create --name user both:1 /x`)
	d.Shell(b, `$D rmi --platform linux/amd64 both:1`).Exits(1).Complains("is being used by container")
	d.Shell(b, `$D rmi --platform linux/arm64 both:1`).Exits(0).Shows("Deleted: sha256:")
	d.Shell(b, `$D image inspect --platform linux/arm64 both:1`).Exits(1)
	d.Shell(b, `$D rm user && $D rmi --platform linux/amd64 both:1`).Exits(1).Complains("no other platform")
}

// twoPlatforms makes one index of the two images of a layout, in it.
func twoPlatforms(t *testing.T, layout string) {
	t.Helper()
	var index ocispec.Index
	data, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err != nil || len(index.Manifests) != 2 {
		t.Fatalf("%s: %v", data, err)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		index.Manifests[i].Annotations, index.Manifests[i].Platform = nil, &ocispec.Platform{OS: "linux", Architecture: arch}
	}
	put := func(name string, v any) []byte {
		data, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(layout, name), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	data = put("both", index)
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	if err := os.Rename(filepath.Join(layout, "both"), filepath.Join(layout, "blobs/sha256", name)); err != nil {
		t.Fatal(err)
	}
	put("index.json", map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{"mediaType": ocispec.MediaTypeImageIndex,
		"digest": "sha256:" + name, "size": len(data), "annotations": map[string]string{"io.containerd.image.name": "docker.io/library/both:1"}}}})
	if err := os.Remove(filepath.Join(layout, "manifest.json")); err != nil {
		t.Fatal(err)
	}
}
