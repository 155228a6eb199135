package ocirun

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mountLine is a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)):
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//	id    device root point                      type
type mountLine struct {
	id                        int
	device, root, point, kind string
}

func readMountinfo(proc *os.File, who string) ([]mountLine, error) {
	text, err := readProc(proc, who+"/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMountinfo(text), nil
}

func parseMountinfo(text string) (list []mountLine) {
	for line := range strings.Lines(text) {
		left, right, found := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !found || len(l) < 6 || len(r) < 1 {
			continue
		}
		id, err := strconv.Atoi(l[0])
		if err != nil {
			continue
		}
		list = append(list, mountLine{id: id, device: l[2], root: unescapeMount(l[3]), point: unescapeMount(l[4]), kind: r[0]})
	}
	return list
}

// unescapeMount undoes the octal escapes: \040 is a space.
func unescapeMount(s string) string {
	for _, e := range [...]string{`\040`, `\011`, `\012`, `\134`} {
		if strings.Contains(s, e) {
			n, _ := strconv.ParseUint(e[1:], 8, 8)
			s = strings.ReplaceAll(s, e, string(rune(n)))
		}
	}
	return s
}

// externalMounts are the mount points of a container that the host has put something at: the binds of its spec, what came with a
// recursive one from below its source, and the null devices that hide files.
func externalMounts(s *specs.Spec, info, host []mountLine) (points []string, err error) {
	mounts, err := parseMounts(s.Mounts)
	if err != nil {
		return nil, err
	}
	// A later mount covers earlier ones at its place, and those are the last lines of it.
	at := func(list []mountLine, point string) *mountLine {
		for i := range slices.Backward(list) {
			if list[i].point == point {
				return &list[i]
			}
		}
		return nil
	}
	named := func(point string) bool {
		return slices.ContainsFunc(mounts, func(m mount) bool { return m.dest == point })
	}
	add := func(point string) {
		if !slices.Contains(points, point) {
			points = append(points, point)
		}
	}
	for i := range mounts {
		m := &mounts[i]
		if m.remount || !m.bind && m.Type != "bind" || at(info, m.dest) == nil {
			continue
		}
		add(m.dest)
		for _, line := range info {
			rest, within := strings.CutPrefix(line.point, strings.TrimSuffix(m.dest, "/")+"/")
			if !within || !m.recursive || named(line.point) {
				continue
			}
			if from := at(host, path.Join(m.Source, rest)); from != nil && from.device == line.device && from.root == line.root {
				add(line.point)
			}
		}
	}
	for _, p := range linuxOf(s).MaskedPaths {
		if line := at(info, path.Clean(p)); line != nil && line.root == "/null" && line.kind == "devtmpfs" || line != nil && line.root == "/null" &&
			line.kind == "tmpfs" {
			add(line.point)
		}
	}
	return points, nil
}
