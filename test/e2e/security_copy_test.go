package e2e

import (
	"archive/tar"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// hostileCopies: cp stays in the container, whatever links are there or come with the archive, however fast they are swapped
// (CVE-2018-15664, CVE-2021-41089, CVE-2021-32760, CVE-2019-10152, CVE-2019-18466, CVE-2026-17106, CVE-2026-41568,
// CVE-2026-42306), and yet follows the links that are meant to be followed; and it runs nothing that the container brings
// (CVE-2019-14271, CVE-2026-41567).
func hostileCopies(t *testing.T, h *hostile) {
	up := strings.Repeat("../", 20)
	link := func(name, to string) entry { return entry{name: name, kind: tar.TypeSymlink, link: to} }
	entries := []entry{link("l", h.bait), link("m", up+h.bait), {name: "run/", kind: tar.TypeDir}, {name: "var/", kind: tar.TypeDir},
		link("var/run", "/run"), h.probe}
	for _, tool := range []string{"usr/bin/xz", "usr/bin/unpigz", "usr/bin/unxz", "bin/xz", "bin/unpigz", "usr/bin/gzip", "usr/bin/zstd", "usr/bin/tar"} {
		entries = append(entries, entry{name: tool, kind: tar.TypeReg, text: "#!/bin/sh\ntouch /ran " + h.bait + "/ran\n"})
	}
	h.image(t, "copies", nil, entries...)
	d := h.d
	for name, list := range map[string][]entry{
		"links.tar": {link("n", h.bait), {name: "n/", kind: tar.TypeDir, mode: 0o777}, {name: "n/file", kind: tar.TypeReg, text: "over"}},
		"ups.tar":   {{name: up + h.bait + "/file", kind: tar.TypeReg, text: "over"}, {name: up + h.bait + "/sub/", kind: tar.TypeDir, mode: 0o777}},
		"hard.tar":  {{name: "hard", kind: tar.TypeLink, link: h.bait + "/file"}, {name: "hard", kind: tar.TypeReg, text: "over", mode: 0o777}},
		"hard2.tar": {link("n", h.bait), {name: "hard", kind: tar.TypeLink, link: "n/file"}, {name: "hard", kind: tar.TypeReg, text: "over", mode: 0o777}},
		"modes.tar": {{name: "l/", kind: tar.TypeDir, mode: 0o777}, {name: "m/sub/", kind: tar.TypeDir, mode: 0o777}, {name: "l/file", kind: tar.TypeReg, text: "over", mode: 0o6777}},
		"plain.tar": {{name: "came", kind: tar.TypeReg, text: "came\n"}},
	} {
		if err := os.WriteFile(filepath.Join(d.Dir, name), makeTar(t, list), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d.Must(`cd $DIR && echo data >in && xz -k plain.tar && gzip -k plain.tar && $D run -d --name copies copies sleep 100 && $D create --name still -v copied:/l/v -v copied:/m/w copies true`)
	for _, c := range []string{"copies", "still"} {
		h.run(t, strings.ReplaceAll(`for f in links ups hard hard2 modes; do for p in / /l /m/sub /tmp; do $D cp - C:$p <$f.tar; done; done
			$D cp in C:/l/file; $D cp in C:/m/new; $D cp in C:/l/v/x; $D cp in C:/m/sub/../file
			$D cp C:/l/file -; $D cp C:/m/sub/file -; $D cp C:/l/. -; $D cp -L C:/l out; $D cp -L C:/m/file out; cat out/* out 2>/dev/null; rm -rf out
			for f in plain.tar.xz plain.tar.gz; do $D cp - C:/tmp <$f; done`, "C:", c+":"))
		h.obey(t,
			step{line: `$D cp in ` + c + `:/var/run/x && $D cp ` + c + `:/var/run/x back && cat back`, out: "data\n"},
			step{line: `$D cp ` + c + `:/run/x back && cat back`, out: "data\n"},
		)
	}
	h.obey(t,
		step{line: `$D exec copies cat /run/x`, out: "data\n"},
		step{line: `$D exec copies sh -c 'ls /ran ` + h.bait + `/ran 2>/dev/null; true'`},
		step{line: `$D diff still | grep ran; true`},
		step{line: `$D rm -f copies still; $D volume rm copied`, out: "copies\nstill\ncopied\n"},
		step{line: `$D run -d --name swap copies sh -c 'mkdir -p /t/a/sub; echo own >/t/a/file; ln -s ` + h.bait + ` /t/b; exec /probe swap /t/a /t/b' | wc -c`, out: "65\n"},
	)
	harness.Eventually(t, time.Minute, "the names are being swapped", func() bool { return h.run(t, `$D logs swap`).Out == "swapping\n" })
	r := h.run(t, `for i in $(seq 40); do $D cp in swap:/t/a/file; $D cp in swap:/t/a/sub/new; $D cp - swap:/t/a <modes.tar; $D cp swap:/t/a/file -; $D cp -L swap:/t/b/file back && cat back; done; $D exec swap touch /stop; $D rm -f swap`)
	if !strings.Contains(r.Out, "data") {
		t.Errorf("no copy ever came through, so this shows nothing: %q %q", r.Out, r.Err)
	}
	// Nothing of a container's can be loaded into a program that loads nothing.
	for _, program := range []string{"berthd", "berth-runtime"} {
		f, err := elf.Open(filepath.Join(d.Repo, "bin", program))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s is not static", program)
			}
		}
		f.Close()
	}
}

// swappedSubpath: the part of a volume that is mounted is inside the volume, also when a container swaps a directory in it
// for a link all the time (the race of CVE-2021-30465, by way of a volume).
func swappedSubpath(t *testing.T, h *hostile) {
	h.obey(t, step{line: `$D run -d --name swap -v swapped:/t plain sh -c 'mkdir -p /t/a/sub; echo own >/t/a/sub/file; ln -s ` + h.bait + ` /t/b; exec /probe swap /t/a /t/b' | wc -c`, out: "65\n"})
	harness.Eventually(t, time.Minute, "the names are being swapped", func() bool { return h.run(t, `$D logs swap`).Out == "swapping\n" })
	r := h.run(t, `for i in $(seq 40); do $D run --rm --mount type=volume,source=swapped,target=/p,volume-subpath=a/sub plain cat /p/file; done; $D exec swap touch /stop; $D rm -f swap; $D volume rm swapped`)
	if !strings.Contains(r.Out, "own") {
		t.Errorf("no container ever got its part, so this shows nothing: %q %q", r.Out, r.Err)
	}
}

// escapingImages: an archive that docker load is given reaches nothing outside of it, and nothing outside of the layers
// (CVE-2026-17106, CVE-2024-3727, CVE-2025-47290, CVE-2020-10696, CVE-2021-41190).
func escapingImages(t *testing.T, h *hostile) {
	up := strings.Repeat("../", 20)
	reg := func(name, text string) entry { return entry{name: name, kind: tar.TypeReg, text: text, mode: 0o644} }
	link := func(name, to string) entry { return entry{name: name, kind: tar.TypeSymlink, link: to} }
	good := makeTar(t, []entry{reg("x", "x")})
	config := mustJSON(t, map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/x"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{blob(good)}}})
	manifest := func(config string, tag string, layers ...string) string {
		return mustJSON(t, []any{map[string]any{"Config": config, "RepoTags": []string{tag}, "Layers": layers}})
	}
	file := h.bait + "/file"
	index := func(digest, more string) string {
		return `{"schemaVersion":2,` + more + `"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + digest + `","size":` + fmt.Sprint(len(secret)+1) + `,"annotations":{"org.opencontainers.image.ref.name":"esc:1"}}]}`
	}
	layout := reg("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	both := mustJSON(t, map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config":    map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob([]byte(config)), "size": len(config)},
		"layers":    []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob(good), "size": len(good)}},
		"manifests": []any{}})
	plainOCI := strings.Replace(both, `"manifests":[],`, "", 1)
	inBlobs := func(data string) entry {
		return reg("blobs/sha256/"+strings.TrimPrefix(blob([]byte(data)), "sha256:"), data)
	}
	oci := func(m string) []entry {
		return []entry{layout, reg("index.json", strings.Replace(index(blob([]byte(m)), ""), fmt.Sprintf(`"size":%d`, len(secret)+1), fmt.Sprintf(`"size":%d`, len(m)), 1)),
			inBlobs(m), inBlobs(config), inBlobs(string(good))}
	}
	for i, tc := range []struct {
		entries []entry
		loads   bool
	}{
		{[]entry{reg("c", config), reg("manifest.json", manifest(up+file, "esc:1", "l")), reg("l", string(good))}, false},
		{[]entry{reg("c", config), reg("manifest.json", manifest("c", "esc:1", up+file))}, false},
		{[]entry{reg("c", config), reg("manifest.json", manifest("c", "esc:1", file))}, false},
		{[]entry{reg("c", config), link("l", file), reg("manifest.json", manifest("c", "esc:1", "l"))}, false},
		{[]entry{link("c", file), reg("l", string(good)), reg("manifest.json", manifest("c", "esc:1", "l"))}, false},
		{[]entry{reg("c", config), {name: "l", kind: tar.TypeLink, link: file}, reg("manifest.json", manifest("c", "esc:1", "l"))}, false},
		{[]entry{link("manifest.json", file)}, false},
		{[]entry{reg("c", config), reg("l", string(good)), reg("manifest.json", manifest("c", "../../x:1", "l"))}, false},
		{[]entry{layout, reg("index.json", index("sha256:"+up+file, ""))}, false},
		{[]entry{layout, reg("index.json", index(up+file, ""))}, false},
		{[]entry{layout, link("blobs", h.bait), reg("index.json", index(blob([]byte(secret+"\n")), ""))}, false},
		{[]entry{layout, link("blobs/sha256/"+strings.TrimPrefix(blob([]byte(secret+"\n")), "sha256:"), file), reg("index.json", index(blob([]byte(secret+"\n")), ""))}, false},
		{[]entry{link("index.json", file), layout}, false},
		{oci(both), false},
		{oci(plainOCI), true}, // the same without the lie
		{[]entry{reg("c", config), reg("manifest.json", manifest("c", "esc:1", "l")), reg("l", string(good))}, true},
	} {
		r := h.loadTar(t, makeTar(t, tc.entries))
		if loads := r.Code == 0; loads != tc.loads {
			t.Errorf("archive %d: exit code %d, %q %q", i, r.Code, r.Out, r.Err)
		}
		if r.Code == 0 {
			h.run(t, `$D rmi -f $($D images -q esc)`)
		}
	}
	// Layers that would write through each other's links, remove by a whiteout what is not theirs, or link to the host.
	for i, layers := range [][][]entry{
		{{link("d", h.bait)}, {reg("d/file", "over"), reg("d/sub/new", "new")}},
		{{link("d", up+h.bait)}, {{name: "d/", kind: tar.TypeDir, mode: 0o777}, reg("d/.wh.file", ""), reg("d/.wh..wh..opq", "")}},
		{{link("d", h.bait)}, {reg("d/.wh..wh..opq", "")}},
		{{reg("x", "x"), reg("x/../.wh...", ""), reg(".wh..", "")}},
		{{reg("a/.wh."+"..", ""), reg("a/.wh.", ""), reg("a/.wh./x", "")}},
		{{link("a", "b"), link("b", "a"), reg("a/x", "x")}},
		{{link("d", h.bait), {name: "h", kind: tar.TypeLink, link: "d/file"}}},
		{{{name: "h", kind: tar.TypeLink, link: up + file}}},
		{{{name: "h", kind: tar.TypeLink, link: file}}},
		{{link("d", h.bait), link("d", "/"), reg("d/"+strings.TrimPrefix(file, "/"), "over")}},
		{{reg("/../../../.."+file, "over"), reg(up+file, "over")}},
		{{{name: "d", kind: tar.TypeBlock}, reg("d/x", "x")}},
	} {
		name := fmt.Sprintf("layers%d", i)
		list := [][]byte{h.base}
		for _, l := range layers {
			list = append(list, makeTar(t, l))
		}
		if r := h.load(t, name, nil, list...); r.Code == 0 {
			h.run(t, `$D run --rm `+name+` sh -c 'cat /h /d/file /a/x 2>/dev/null; true'`)
			h.run(t, `$D rmi -f `+name)
		}
		if now := h.look(t); now != h.was {
			t.Fatalf("layers %d reached the host: %s", i, now)
		}
	}
}
