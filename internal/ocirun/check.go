package ocirun

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Check tells whether Start would refuse the spec before doing anything: what makes no sense, and what is not there yet.
func Check(s *specs.Spec) error {
	if err := check(&StartOptions{Spec: s}); err != nil {
		return err
	}
	_, err := parseMounts(s.Mounts)
	return err
}

// check refuses, before anything is made, what makes no sense and what is not there yet.
func check(o *StartOptions) error {
	s := o.Spec
	if s == nil {
		return invalid("no spec was given")
	}
	if err := checkVersion(s.Version); err != nil {
		return err
	}
	if o.Rootfs == nil && (s.Root == nil || s.Root.Path == "") {
		return invalid("the spec has no root file system")
	}
	if s.Root == nil {
		s.Root = &specs.Root{}
	}
	if err := checkProcess(s.Process); err != nil {
		return err
	}
	for name, there := range map[string]bool{"solaris": s.Solaris != nil, "windows": s.Windows != nil, "vm": s.VM != nil,
		"zos": s.ZOS != nil, "freebsd": s.FreeBSD != nil} {
		if there {
			return missingFeature(name + ", which is of another platform,")
		}
	}
	if s.Hooks != nil {
		if err := checkHooks(s.Hooks); err != nil {
			return err
		}
	}
	if (o.HoldFile == nil) != (o.ReportFile == nil) || o.HoldFile != nil && !o.Hold {
		return invalid("HoldFile and ReportFile go together, with Hold")
	}
	l := s.Linux
	if l == nil {
		l = &specs.Linux{}
	}
	if err := checkLinux(l); err != nil {
		return err
	}
	if err := checkLabels(s); err != nil {
		return err
	}
	has := func(kind specs.LinuxNamespaceType) bool { return o.private(l, kind) }
	if err := o.checkMountNS(l); err != nil {
		return err
	}
	if strings.ContainsRune(s.Hostname+s.Domainname, 0) {
		return invalid("the host name %q or the domain name %q has a NUL in it", s.Hostname, s.Domainname)
	}
	if s.Hostname != "" && !has(specs.UTSNamespace) {
		return invalid("the host name cannot be set without a private UTS namespace")
	}
	if s.Domainname != "" && !has(specs.UTSNamespace) {
		return invalid("the domain name cannot be set without a private UTS namespace")
	}
	if err := checkNetDevices(l, has(specs.NetworkNamespace)); err != nil {
		return err
	}
	if len(l.TimeOffsets) > 0 && !slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.TimeNamespace && n.Path == ""
	}) {
		return invalid("time offsets need a new time namespace")
	}
	for clock := range l.TimeOffsets {
		if !slices.Contains(clocks[:], clock) {
			return invalid("there is no time offset of a clock %q, only of %q", clock, clocks)
		}
	}
	for key := range l.Sysctl {
		if err := checkSysctl(key, has); err != nil {
			return err
		}
	}
	for _, p := range slices.Concat(l.MaskedPaths, l.ReadonlyPaths) {
		if !path.IsAbs(p) {
			return invalid("masked or read-only path %q is not absolute", p)
		}
	}
	for i := range l.Devices {
		if err := checkDevice(&l.Devices[i]); err != nil {
			return err
		}
	}
	return nil
}

// checkDevice refuses numbers that the kernel has no room for: cut off, they would be those of another device or user.
func checkDevice(d *specs.LinuxDevice) error {
	const majors, minors = 1 << 12, 1 << 20 // include/linux/kdev_t.h
	switch {
	case !path.IsAbs(d.Path):
		return invalid("device %q is not an absolute path", d.Path)
	case d.Type != "p" && (d.Major < 0 || d.Major >= majors || d.Minor < 0 || d.Minor >= minors):
		return invalid("device %q has the numbers %d:%d, and there is none beyond %d:%d", d.Path, d.Major, d.Minor, majors-1, minors-1)
	case d.UID != nil && *d.UID > maxID || d.GID != nil && *d.GID > maxID:
		return invalid("the owner of device %q is out of range", d.Path)
	}
	return nil
}

func checkVersion(v string) error {
	// A 1.x runtime understands every 1.y document; what it does not know it cannot see (config.md, "Specification version").
	rest, one := strings.CutPrefix(v, "1.")
	rest, _, _ = strings.Cut(rest, "+")
	rest, _, _ = strings.Cut(rest, "-")
	minor, patch, three := strings.Cut(rest, ".")
	for _, number := range [...]string{minor, patch} {
		_, err := strconv.ParseUint(number, 10, 32)
		three = three && err == nil && (number == "0" || number[0] != '0') // semver.org, 2
	}
	if !one || !three {
		return invalid("spec version %q is not one of 1.x, such as %s", v, specs.Version)
	}
	return nil
}

func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return invalid("the spec has no process")
	case len(p.Args) == 0:
		return invalid("the process has no arguments")
	case !path.IsAbs(p.Cwd):
		return invalid("the working directory %q is not an absolute path", p.Cwd)
	case p.CommandLine != "":
		return missingFeature("commandLine, which is for Windows")
	case p.User.Username != "":
		return missingFeature("a user by name")
	case p.User.UID > maxID || p.User.GID > maxID:
		return invalid("user %d:%d is out of range", p.User.UID, p.User.GID)
	}
	if err := checkAffinity(p.ExecCPUAffinity); err != nil {
		return err
	}
	if box := p.ConsoleSize; box != nil && (box.Height > math.MaxUint16 || box.Width > math.MaxUint16) {
		return invalid("a terminal cannot have %d lines and %d columns", box.Height, box.Width)
	}
	if m := p.User.Umask; m != nil && *m > 0o777 {
		return invalid("umask %#o is out of range", *m)
	}
	if io := p.IOPriority; io != nil && (io.Priority < 0 || io.Priority > 7) {
		return invalid("I/O priority %d is not between 0 and 7", io.Priority)
	}
	for i, l := range p.Rlimits {
		if slices.ContainsFunc(p.Rlimits[:i], func(o specs.POSIXRlimit) bool { return o.Type == l.Type }) {
			return invalid("rlimit %q is given twice", l.Type)
		}
	}
	for _, list := range [][]string{p.Args, p.Env, {p.Cwd}} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return invalid("%q has a NUL in it", s)
			}
		}
	}
	for _, kv := range p.Env {
		if strings.IndexByte(kv, '=') <= 0 {
			return invalid("invalid environment variable: %q is not NAME=VALUE", kv)
		}
	}
	if err := checkScheduler(p.Scheduler); err != nil {
		return err
	}
	for _, g := range p.User.AdditionalGids {
		if g > maxID {
			return invalid("group %d is out of range", g)
		}
	}
	return nil
}

// maxID is the largest user or group: the kernel reads -1 as "leave it", and signed 32-bit readers wrap at more
// (CVE-2024-40635).
const maxID = 1<<31 - 1

func checkLinux(l *specs.Linux) error {
	switch {
	case l.RootfsPropagation != "" && !isPropagation(l.RootfsPropagation):
		return invalid("root file system propagation %q is unknown", l.RootfsPropagation)
	}
	if err := checkRdt(l.IntelRdt); err != nil {
		return err
	}
	if err := checkUserNS(l); err != nil {
		return err
	}
	if err := personality(new(linux.Program), l.Personality); err != nil {
		return err
	}
	if l.MemoryPolicy != nil {
		if _, _, err := memoryPolicy(l.MemoryPolicy); err != nil {
			return err
		}
	}
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, n := range l.Namespaces {
		if n.Type != specs.UserNamespace && !slices.ContainsFunc(nsFlags[:], func(k nsFlag) bool { return k.kind == n.Type }) {
			return invalid("namespace type %q is unknown", n.Type)
		}
		if seen[n.Type] {
			return invalid("namespace type %q is given twice", n.Type)
		}
		seen[n.Type] = true
	}
	return nil
}

// private says whether the container's namespace of a kind is not the host's.
func (o *StartOptions) private(l *specs.Linux, kind specs.LinuxNamespaceType) bool {
	same := func(stat func(*unix.Stat_t) error) bool {
		var own, other unix.Stat_t
		file := nsFlags[slices.IndexFunc(nsFlags[:], func(k nsFlag) bool { return k.kind == kind })].file
		return unix.Stat("/proc/self/ns/"+file, &own) == nil && stat(&other) == nil && own.Ino == other.Ino && own.Dev == other.Dev
	}
	if f := o.Namespaces[kind]; f != nil {
		return !same(func(st *unix.Stat_t) error { return unix.Fstat(int(f.Fd()), st) })
	}
	for _, n := range l.Namespaces {
		if n.Type == kind {
			return n.Path == "" || !same(func(st *unix.Stat_t) error { return unix.Stat(n.Path, st) })
		}
	}
	return false
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

func missingFeature(what string) error {
	return fmt.Errorf("%s: %w", what, errdefs.ErrNotImplemented)
}
