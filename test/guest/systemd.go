package guest

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// systemdPrograms are what a guest gets of systemd, with the libraries they are linked with.
var systemdPrograms = [...]string{"/lib/systemd/systemd", "/usr/bin/systemctl"}

// guestService is the only unit there is beside those that systemd makes itself. It runs the programs on the serial line.
const guestService = `[Unit]
Description=the programs of the guest
DefaultDependencies=no

[Service]
Type=oneshot
ExecStart=/bin/busybox sh /programs/all
TimeoutStartSec=infinity
`

// systemdConf has all controllers counted everywhere: systemd takes those that no unit needs away from the root's children.
const systemdConf = `[Manager]
DefaultCPUAccounting=yes
DefaultIOAccounting=yes
DefaultMemoryAccounting=yes
DefaultTasksAccounting=yes
ShowStatus=no
StatusUnitFormat=name
`

// systemd puts systemd into the archive.
func (c *cpio) systemd() error {
	for _, name := range systemdPrograms {
		list := []string{name}
		out, err := exec.Command("ldd", name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("the libraries of %q: %w: %s", name, err, out)
		}
		for line := range strings.Lines(string(out)) {
			for _, word := range strings.Fields(line) {
				if strings.HasPrefix(word, "/") {
					list = append(list, word)
				}
			}
		}
		for _, file := range list {
			info, err := os.Stat(file)
			if err != nil {
				return err
			}
			if !slices.Contains(c.libs, file) {
				c.libs = append(c.libs, file)
				c.copy(strings.TrimPrefix(file, "/"), info.Mode().Perm(), file)
			}
		}
	}
	c.file("etc/machine-id", 0o444, []byte("5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e\n")) // without one systemd would set up a first boot
	c.file("etc/os-release", 0o644, []byte("NAME=guest\nID=guest\n"))
	c.file("etc/systemd/system.conf", 0o644, []byte(systemdConf))
	c.file("etc/systemd/system/default.target", 0o644, []byte("[Unit]\nDescription=the guest\nWants=guest.service\n"))
	c.file("etc/systemd/system/guest.service", 0o644, []byte(guestService))
	return nil
}
