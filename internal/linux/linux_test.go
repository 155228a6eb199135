package linux

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSealedCopyRunsAndCannotBeChanged(t *testing.T) {
	f, err := SealedCopy("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Error("written into a sealed copy:", err)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Error("cut a sealed copy:", err)
	}
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := SealedCopy("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func layers(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"a", "b:c", "up", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"a/one": "a", "b:c/one": "b", "b:c/two": "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func readIn(t *testing.T, dir *os.File, name string) string {
	t.Helper()
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 64)
	n, _ := unix.Read(fd, buf)
	return string(buf[:n])
}

func TestOverlayStandsNowhereAndWorks(t *testing.T) {
	needRoot(t)
	dir := layers(t)
	f, err := OverlayMount([]string{dir + "/a", dir + "/b:c"}, dir+"/up", dir+"/work")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if readIn(t, f, "one") != "a" || readIn(t, f, "two") != "b" {
		t.Error("the layers are in the wrong order")
	}
	fd, err := unix.Openat(int(f.Fd()), "three", unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	if _, err := os.Stat(dir + "/up/three"); err != nil {
		t.Error(err)
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(table), dir) {
		t.Error("the mount stands in the mount table", err)
	}
}

func TestOverlayWithoutUpperIsReadOnly(t *testing.T) {
	needRoot(t)
	dir := layers(t)
	for _, lower := range [][]string{{dir + "/a", dir + "/b:c"}, {dir + "/a"}} {
		f, err := OverlayMount(lower, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Openat(int(f.Fd()), "x", unix.O_CREAT|unix.O_WRONLY, 0o600); err != unix.EROFS {
			t.Error("written into a read-only overlay:", err)
		}
		_ = f.Close()
	}
}

func TestOverlayErrors(t *testing.T) {
	needRoot(t)
	dir := layers(t)
	if _, err := OverlayMount([]string{dir + "/missing"}, dir+"/up", dir+"/work"); !errors.Is(err, unix.ENOENT) {
		t.Error("a missing layer:", err)
	}
	if _, err := OverlayMount(nil, dir+"/up", dir+"/work"); err == nil {
		t.Error("no layer at all was mounted")
	}
	if _, err := NewMount("nosuchfs", "", 0); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "nosuchfs") {
		t.Error(err)
	}
	_, err := NewMount("tmpfs", "", 0, FsOption{"size", "many"})
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "size=many") {
		t.Error(err)
	}
}

// More layers than fit into one page of option text.
func TestOverlayOfManyLayers(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	var lower []string
	for i := range 120 {
		d := filepath.Join(dir, strings.Repeat("x", 100)+string(rune('0'+i/100))+string(rune('0'+i/10%10))+string(rune('0'+i%10)))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		lower = append(lower, d)
	}
	f, err := OverlayMount(lower, "", "")
	if errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel takes layers only as one string:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
}

func TestMovedMountCoversWhatWasOpened(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	err := OnThread(func() error {
		if err := Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		f, err := NewMount("tmpfs", "tmpfs", unix.MOUNT_ATTR_NOSUID, FsOption{"mode", "755"}, FsOption{"size", "4k"})
		if err != nil {
			return err
		}
		defer f.Close()
		target, err := os.OpenFile(dir, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer target.Close()
		if err := MountSetattr(f, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, true); err != nil {
			return err
		}
		if err := MoveMount(f, target); err != nil {
			return err
		}
		if err := os.WriteFile(dir+"/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/x", nil, 0o600); err != nil {
		t.Error("the mount is seen by other threads:", err)
	}
}

func TestNetNS(t *testing.T) {
	needRoot(t)
	ns, err := NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	own, _ := os.Readlink("/proc/self/ns/net")
	for range 20 {
		err = WithNetNS(ns, func() error {
			inside, err := os.Readlink("/proc/thread-self/ns/net")
			if inside == own {
				t.Error("still in the old namespace")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if now, _ := os.Readlink("/proc/self/ns/net"); now != own {
		t.Error("the process went to another namespace")
	}
	// A thread ends a moment after its work is done.
	stays := func() bool {
		tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
		for _, task := range tasks {
			if now, err := os.Readlink(task); err == nil && now != own {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(2 * time.Minute); stays(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a thread stayed in another namespace")
		}
	}
}

func TestFilesTravelWithMessages(t *testing.T) {
	a, b, err := SocketPair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	f, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := SendMsg(a, []byte("hello"), f, f); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	buf := make([]byte, 16)
	n, files, err := RecvMsg(b, buf, 2)
	if err != nil || string(buf[:n]) != "hello" || len(files) != 2 {
		t.Fatal(n, files, err)
	}
	for _, got := range files {
		one, _ := f.Stat()
		two, err := got.Stat()
		if err != nil || !os.SameFile(one, two) {
			t.Error("another file came out", err)
		}
		if flags, err := unix.FcntlInt(got.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Error("it is not closed on exec")
		}
		_ = got.Close()
	}
	if _, err := SendMsg(a, []byte("x"), f, f, f, f, f); err != nil {
		t.Fatal(err)
	}
	if _, files, err := RecvMsg(b, buf, 1); err == nil || files != nil {
		t.Error("more files than asked for were taken")
	}
	if _, err := SendMsg(a, nil, f); err == nil {
		t.Error("files were sent without a byte")
	}
	_ = a.Close()
	if n, _, err := RecvMsg(b, buf, 1); n != 0 || err != nil {
		t.Error(n, err)
	}
}

func TestStartTimeAndSignals(t *testing.T) {
	ticks, state, err := StartTime(os.Getpid())
	if err != nil || ticks == 0 || !strings.ContainsRune("RSD", rune(state)) {
		t.Error(ticks, string(state), err)
	}
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := PidfdOpen(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if err := PidfdSendSignal(pidfd, unix.SIGTERM); err != nil {
		t.Error(err)
	}
	ws, err := WaitPidfd(pidfd)
	if err != nil || ws.Code != 143 || ws.Signal != unix.SIGTERM {
		t.Error(ws, err)
	}
	if err := PidfdSendSignal(pidfd, unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	_ = cmd.Wait()
	if _, _, err := StartTime(cmd.Process.Pid); !errors.Is(err, unix.ESRCH) {
		t.Error(err)
	}
}
