package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// node is one entry of the image's file system.
type node struct {
	name string // without a leading slash; directories end in "/"
	mode int64
	link string
	text string
}

// skeleton lists everything in the image except box itself and its links.
//
//	/bin  box and one link per command     /usr/bin /sbin /usr/sbin  links to /bin
//	/etc  passwd group os-release profile  /root 0700  /tmp /var/tmp 1777
//	/dev /proc /sys /run /mnt /opt /srv /home  empty: the engine's mount points and the user's places
func skeleton() []node {
	return []node{
		{name: "bin/", mode: 0o755},
		{name: "dev/", mode: 0o755},
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, text: "root:x:0:\ndaemon:x:1:\nbin:x:2:\nadm:x:4:\ntty:x:5:\nmail:x:8:\n" +
			"users:x:100:\nwww-data:x:33:\nnogroup:x:65534:\n"},
		{name: "etc/os-release", mode: 0o644, text: "ID=berth-box\nNAME=\"Berth box\"\nPRETTY_NAME=\"Berth box\"\n" +
			"HOME_URL=\"https://github.com/berth-engine/berth\"\n"},
		{name: "etc/passwd", mode: 0o644, text: "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\n" +
			"bin:x:2:2:bin:/bin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\n" +
			"user:x:1000:100:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
		{name: "home/", mode: 0o755},
		{name: "mnt/", mode: 0o755},
		{name: "opt/", mode: 0o755},
		{name: "proc/", mode: 0o555},
		{name: "root/", mode: 0o700},
		{name: "run/", mode: 0o755},
		{name: "sbin", mode: 0o777, link: "bin"},
		{name: "srv/", mode: 0o755},
		{name: "sys/", mode: 0o555},
		{name: "tmp/", mode: 0o1777},
		{name: "usr/", mode: 0o755},
		{name: "usr/bin", mode: 0o777, link: "../bin"},
		{name: "usr/local/", mode: 0o755},
		{name: "usr/local/bin/", mode: 0o755},
		{name: "usr/sbin", mode: 0o777, link: "../bin"},
		{name: "var/", mode: 0o755},
		{name: "var/run", mode: 0o777, link: "../run"},
		{name: "var/tmp/", mode: 0o1777},
	}
}

// writeRootfs writes the image's file system around this very program: `box --rootfs FILE`.
func writeRootfs(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: box --rootfs FILE")
		return 2
	}
	if err := makeRootfs(args[0]); err != nil {
		fmt.Fprintf(os.Stderr, "box: writing %s: %v\n", args[0], err)
		return 1
	}
	return 0
}

func makeRootfs(file string) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	box, err := os.Open(self)
	if err != nil {
		return err
	}
	defer box.Close()
	// Beside the target and renamed, so that a build that is interrupted embeds no half archive.
	tmp, err := os.CreateTemp(filepath.Dir(file), ".rootfs-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := errors.Join(packRootfs(tmp, box), tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// packRootfs writes the tar. Order, times, owners and compression are fixed: equal programs give equal bytes.
func packRootfs(w io.Writer, box *os.File) error {
	nodes := skeleton()
	nodes = append(nodes, node{name: "bin/box", mode: 0o755})
	for _, n := range names() {
		nodes = append(nodes, node{name: "bin/" + n, mode: 0o777, link: "box"})
	}
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.name, b.name) })
	zw, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	for _, n := range nodes {
		h := &tar.Header{Name: n.name, Mode: n.mode, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
			Size: int64(len(n.text)), Typeflag: tar.TypeReg}
		var body io.Reader = strings.NewReader(n.text)
		switch {
		case n.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, n.link
		case strings.HasSuffix(n.name, "/"):
			h.Typeflag = tar.TypeDir
		case n.name == "bin/box":
			fi, err := box.Stat()
			if err != nil {
				return err
			}
			h.Size, body = fi.Size(), box
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, body); err != nil {
			return err
		}
	}
	return errors.Join(tw.Close(), zw.Close())
}
