package harness

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// finish removes every container, stops the daemon and looks for what was left behind.
func (d *Daemon) finish() {
	if d.t.Failed() {
		if log := d.LogFrom(0); log != "" {
			d.t.Logf("the daemon's log, its end:\n%s", log[max(0, len(log)-8000):])
		}
	}
	if !d.Running() && d.cmd != nil {
		// A test may end with the daemon killed; its containers need one to be removed by.
		if err := d.Launch(); err != nil {
			d.t.Logf("starting the daemon again to clean up: %v", err)
		}
	}
	if d.Running() {
		d.ShellT(d.t, d.Berth(), "$D ps -aq | xargs -r $D rm -f -v")
		d.Stop()
	}
	d.checkLeaks()
	_ = d.log.Close()
	// What is mounted there would be emptied with it: only a folder free of mounts is removed.
	if len(d.mounts()) == 0 {
		if err := os.RemoveAll(d.Dir); err != nil {
			d.t.Errorf("removing %s: %v", d.Dir, err)
		}
	}
}

// checkLeaks fails the test for whatever of this daemon's the kernel still holds, and takes it away. Network namespaces
// go on the kernel's own time, hence the patience.
func (d *Daemon) checkLeaks() {
	var left []string
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if left = d.Leaks(); len(left) == 0 || time.Now().After(end) {
			break
		}
	}
	if len(left) == 0 {
		return
	}
	d.t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	for _, p := range d.processes() {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	time.Sleep(100 * time.Millisecond) // for the killed to be gone from their cgroups
	for _, m := range slices.Backward(d.mounts()) {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
	for _, c := range slices.Backward(d.cgroups()) {
		_ = syscall.Rmdir(c)
	}
	for _, l := range d.links() {
		_ = exec.Command("ip", "link", "del", l).Run()
	}
	for _, family := range []string{"ip", "ip6", "inet", "bridge"} {
		_ = exec.Command("nft", "delete", "table", family, "berth-"+d.Bridge).Run()
	}
}

// Leaks lists what the kernel holds under this daemon's names.
func (d *Daemon) Leaks() []string {
	var list []string
	for _, p := range d.processes() {
		list = append(list, "process "+strconv.Itoa(p.pid)+" "+p.what)
	}
	for _, m := range d.mounts() {
		list = append(list, "mount "+m)
	}
	for _, c := range d.cgroups() {
		list = append(list, "cgroup "+c)
	}
	for _, l := range d.links() {
		list = append(list, "link "+l)
	}
	return append(list, d.firewall()...)
}

type found struct {
	pid  int
	what string
}

// processes are those whose command line names our folder or that are in our cgroup.
func (d *Daemon) processes() []found {
	var list []found
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile(dir + "/cmdline")
		if err != nil {
			continue
		}
		cgroup, err := os.ReadFile(dir + "/cgroup")
		if err != nil {
			continue
		}
		if bytes.Contains(cmdline, []byte(d.Dir)) || bytes.Contains(cgroup, []byte(d.Cgroup)) {
			list = append(list, found{pid, strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))})
		}
	}
	return list
}

// mounts are those at or of places below our folder or data root.
func (d *Daemon) mounts() []string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var list []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 4 && (strings.HasPrefix(f[4], d.Dir+"/") || strings.Contains(line, "="+d.Dir+"/") ||
			strings.HasPrefix(f[4], d.DataRoot+"/")) {
			list = append(list, f[4])
		}
	}
	return list
}

// cgroups are the folders of our cgroup in every hierarchy.
func (d *Daemon) cgroups() []string {
	var list []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed while we look
			}
			return fs.SkipDir
		}
		if e.IsDir() && strings.Contains(path, d.Cgroup) {
			list = append(list, path)
		}
		return nil
	})
	return list
}

// links are our bridge and whatever is attached to it.
func (d *Daemon) links() []string {
	ifaces, err := net.Interfaces()
	if err != nil {
		return []string{err.Error()}
	}
	var list []string
	for _, i := range ifaces {
		master, err := os.Readlink("/sys/class/net/" + i.Name + "/master")
		if i.Name == d.Bridge || err == nil && filepath.Base(master) == d.Bridge {
			list = append(list, i.Name)
		}
	}
	return list
}

// firewall lists the lines of any nftables rule that name our bridge.
func (d *Daemon) firewall() []string {
	out, err := exec.Command("nft", "list", "ruleset").Output()
	if err != nil {
		return nil // no nft, or no nftables in this kernel
	}
	var list []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, d.Bridge) {
			list = append(list, "nft "+strings.TrimSpace(line))
		}
	}
	return list
}
