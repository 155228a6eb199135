package daemon

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/dockerapi"
	"golang.org/x/sys/unix"
)

// facts are what `docker info` shows of the settings and of the machine. What cannot be found out is left empty: this
// is for people who look for a fault, and must not be one itself.
func (d *daemon) facts(runtimePath string) dockerapi.Facts {
	c := d.now.Load()
	f := dockerapi.Facts{
		ID: identity(c.DataRoot), Debug: c.Debug, Labels: c.Labels, LogDriver: c.LogDriver,
		RegistryMirrors: c.Mirrors, Insecure: c.Insecure,
		HTTPProxy: withoutPassword(c.HTTPProxy), HTTPSProxy: withoutPassword(c.HTTPSProxy), NoProxy: c.NoProxy,
		NoNewPrivs: c.NoNewPrivs, Seccomp: c.Seccomp, RuntimePath: runtimePath, Hostname: hostname(), Memory: memory(),
		Forwarding: firstLine("/proc/sys/net/ipv4/ip_forward") == "1",
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		f.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	f.OSName, f.OSVersion = osRelease()
	for _, p := range c.Pools {
		f.AddressPools = append(f.AddressPools, dockerapi.AddressPool{Base: netip.MustParsePrefix(p.Base), Size: p.Size})
	}
	f.Warnings = append(f.Warnings, d.engine.Networks.Warnings()...)
	if host, err := cgroup.Detect(); err == nil {
		f.CgroupVersion, f.Controllers = host.Version(), host.Controllers()
		f.SwapLimit = f.Controllers["memory"] &&
			(host.Version() == 2 || there("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"))
		f.OOMKillDisable = f.Controllers["memory"] && host.Version() == 1
		f.Warnings = append(f.Warnings, host.Warnings()...)
	}
	for _, h := range c.Hosts {
		if strings.HasPrefix(h, "tcp://") && !c.TLSVerify {
			f.Warnings = append(f.Warnings, "[DEPRECATION NOTICE]: API is accessible on "+h+" without client certificates: "+
				"whoever reaches it has root on this machine")
		}
	}
	return f
}

// identity names this daemon: the same data root on the same machine is the same daemon.
func identity(dataRoot string) string {
	sum := sha256.Sum256([]byte("berth daemon\x00" + firstLine("/etc/machine-id") + "\x00" + dataRoot))
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// memory is the machine's, in bytes.
func memory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// osRelease reads the distribution's name and version (os-release(5)).
func osRelease() (name, version string) {
	var data []byte
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		var err error
		if data, err = os.ReadFile(path); err == nil {
			break
		}
	}
	name = runtime.GOOS
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		value = strings.Trim(value, "'")
		switch key {
		case "PRETTY_NAME":
			name = value
		case "VERSION_ID":
			version = value
		}
	}
	return name, version
}
