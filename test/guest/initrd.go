package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// build writes the guest's initrd.
func (x tools) build(t *testing.T, m *Machine) error {
	f, err := os.Create(m.initrd)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &cpio{w: bufio.NewWriterSize(f, 1<<20), dirs: map[string]bool{}}
	w.file("init", 0o755, []byte(firstInit))
	w.copy("bin/busybox", 0o755, x.busybox)
	wanted := []string{"overlay", "loop", "veth"}
	script := runFunction
	if m.systemd {
		if err := w.systemd(); err != nil {
			return err
		}
	}
	for i, p := range m.programs {
		binary := p.Path
		if p.Package != "" {
			if binary, err = compile(t, p.Package, i); err != nil {
				return err
			}
			p.Args = append([]string{"-test.v"}, p.Args...)
			if err := w.testdata(p.Package, fmt.Sprint("programs/", i)); err != nil {
				return err
			}
		}
		name := fmt.Sprintf("programs/%d/program", i)
		w.copy(name, 0o755, binary)
		for _, there := range slices.Sorted(maps.Keys(p.Files)) {
			info, err := os.Stat(p.Files[there])
			if err != nil {
				return err
			}
			w.copy(strings.TrimPrefix(there, "/"), info.Mode().Perm(), p.Files[there])
		}
		wanted = append(wanted, p.Modules...)
		script += fmt.Sprintf("%s\nrun %d", p.Before, i)
		for _, e := range p.Env {
			script += " " + quote(e)
		}
		script += " /" + name
		for _, a := range p.Args {
			script += " " + quote(a)
		}
		script += "\n"
	}
	modules, err := x.resolve(wanted)
	if err != nil {
		return err
	}
	list := ""
	for i, file := range modules {
		content, err := readModule(filepath.Join(x.modules, file))
		if err != nil {
			return err
		}
		name := fmt.Sprintf("modules/%03d", i)
		w.file(name, 0o644, content)
		list += "/" + name + "\n"
	}
	w.file("modules/list", 0o644, []byte(list))
	script += "poweroff -f\n"
	if m.systemd {
		w.file("next", 0o755, []byte(nextInit+"exec /lib/systemd/systemd\n"))
		w.file("programs/all", 0o755, []byte("exec </dev/null >/dev/console 2>&1\n"+script))
	} else {
		w.file("next", 0o755, []byte(nextInit+ownCgroups+script))
	}
	if err := w.end(); err != nil {
		return err
	}
	return f.Close()
}

// firstInit moves everything from the initrd to a tmpfs, which unlike it can be pivoted away from.
const firstInit = `#!/bin/busybox sh
/bin/busybox mkdir -p /new
/bin/busybox mount -t tmpfs -o mode=755,size=75% root /new
/bin/busybox cp -a /bin /modules /next /programs /new/
for d in /*; do
	case $d in /bin|/modules|/next|/programs|/new|/init|/dev|/root) ;; *) /bin/busybox cp -a $d /new/ ;; esac
done
exec /bin/busybox switch_root /new /next
`

// nextInit makes a machine of it. The programs follow, one a line, or systemd.
const nextInit = `#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root CI=true
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /etc /root /sbin /usr/bin /usr/sbin /var/lib
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec </dev/null >/dev/console 2>&1
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
echo 'root:x:0:' >/etc/group
hostname guest
ip link set lo up
for m in $(cat /modules/list); do insmod $m || echo "cannot load $m"; done
`

// ownCgroups is for a guest without systemd.
const ownCgroups = "mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup\n"

// runFunction is what the lines of the programs call.
const runFunction = `export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root CI=true
run() {
	n=$1; shift
	echo "@guest begin $n"
	(cd /programs/$n && env "$@")
	echo "@guest end $n $?"
}
`

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// compile builds the package's tests. CGO_ENABLED=0 makes them static; there is no C library in the guest.
func compile(t *testing.T, pkg string, n int) (string, error) {
	out := filepath.Join(t.TempDir(), fmt.Sprintf("%d.test", n))
	cmd := exec.Command("go", "test", "-c", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the tests of %s: %w: %s", pkg, err, text)
	}
	return out, touch(pkg)
}

// touch looks at every source file of ours that goes into the package's tests. Go caches a test's result by the
// files the test itself has looked at, and would otherwise not notice that they have changed.
func touch(pkg string) error {
	dirs, err := exec.Command("go", "list", "-deps", "-test", "-f",
		"{{if .Module}}{{if .Module.Main}}{{.Dir}}{{end}}{{end}}", pkg).Output()
	if err != nil {
		return fmt.Errorf("list what package %q is made of: %w", pkg, err)
	}
	for _, dir := range slices.Compact(slices.Sorted(strings.FieldsSeq(string(dirs)))) {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return err
		}
		for _, f := range files {
			if _, err := os.Stat(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// testdata puts a package's testdata where its tests look for it.
func (c *cpio) testdata(pkg, under string) error {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", pkg).Output()
	if err != nil {
		return fmt.Errorf("find package %q: %w", pkg, err)
	}
	root := strings.TrimSpace(string(dir))
	err = filepath.WalkDir(filepath.Join(root, "testdata"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			c.copy(filepath.Join(under, strings.TrimPrefix(path, root)), 0o644, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// resolve turns module names into files in the order of loading, by modules.dep: "kernel/a.ko: kernel/b.ko
// kernel/c.ko", where later ones are needed by earlier ones. A name that the kernel has built in needs no file.
func (x tools) resolve(names []string) (files []string, err error) {
	dep, err := os.ReadFile(filepath.Join(x.modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(x.modules, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	known := map[string][]string{}
	for line := range strings.Lines(string(dep)) {
		file, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		order := append([]string{file}, strings.Fields(needs)...)
		slices.Reverse(order)
		known[moduleName(file)] = order
	}
	for line := range strings.Lines(string(builtin)) {
		known[moduleName(strings.TrimSpace(line))] = []string{}
	}
	for _, name := range names {
		order, ok := known[strings.ReplaceAll(name, "-", "_")]
		if !ok {
			return nil, fmt.Errorf("the kernel of %s has no module %q", x.modules, name)
		}
		for _, f := range order {
			if !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return files, nil
}

func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule unpacks what some distributions compress.
func readModule(path string) ([]byte, error) {
	for suffix, tool := range map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"} {
		if strings.HasSuffix(path, suffix) {
			return exec.Command(tool, "-dc", path).Output()
		}
	}
	return os.ReadFile(path)
}

// cpio writes the archive that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst,
// "newc"): for each entry a header of "070701" and thirteen numbers of eight hexadecimal digits, the name with a
// NUL, the content, each padded to four bytes. It keeps the first error.
type cpio struct {
	w    *bufio.Writer
	dirs map[string]bool
	libs []string // that are in it
	ino  int
	err  error
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

func (c *cpio) entry(name string, mode uint32, size int64, content io.Reader) {
	if c.err != nil {
		return
	}
	c.ino++
	header := "070701"
	for _, n := range [...]int64{int64(c.ino), int64(mode), 0, 0, 1, 0, size, 0, 0, 0, 0, int64(len(name) + 1), 0} {
		header += fmt.Sprintf("%08X", n)
	}
	header += name + "\x00"
	c.pad(io.WriteString(c.w, header))
	if content == nil || c.err != nil {
		return
	}
	n, err := io.CopyN(c.w, content, size)
	c.pad(int(n), err)
}

func (c *cpio) pad(n int, err error) {
	if err == nil {
		_, err = c.w.Write(make([]byte, -n&3))
	}
	if c.err == nil {
		c.err = err
	}
}

// parents makes the directories above name.
func (c *cpio) parents(name string) {
	dir := filepath.Dir(name)
	if dir == "." || c.dirs[dir] {
		return
	}
	c.parents(dir)
	c.dirs[dir] = true
	c.entry(dir, modeDir|0o755, 0, nil)
}

func (c *cpio) file(name string, perm os.FileMode, content []byte) {
	c.parents(name)
	c.entry(name, modeFile|uint32(perm), int64(len(content)), strings.NewReader(string(content)))
}

func (c *cpio) copy(name string, perm os.FileMode, from string) {
	f, err := os.Open(from)
	if err != nil {
		if c.err == nil {
			c.err = err
		}
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		c.parents(name)
		c.entry(name, modeFile|uint32(perm), info.Size(), f)
	} else if c.err == nil {
		c.err = err
	}
}

func (c *cpio) end() error {
	c.entry("TRAILER!!!", 0, 0, nil)
	if c.err == nil {
		c.err = c.w.Flush()
	}
	return c.err
}
