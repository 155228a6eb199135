package e2e

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"
)

// hostileVolumes: an image's volumes lie in the container, whatever their paths say (CVE-2022-23648, CVE-2019-16884), and a
// volume that holds something is never filled from an image (CVE-2020-1726).
func hostileVolumes(t *testing.T, h *hostile) {
	up := strings.Repeat("../", 20)
	for i, v := range []struct {
		volume string
		files  []entry
	}{
		{"/" + up + h.bait, nil},
		{"/vol/" + up + h.bait, nil},
		{"/vol", []entry{{name: "vol", kind: tar.TypeSymlink, link: h.bait}}},
		{"/vol", []entry{{name: "vol", kind: tar.TypeSymlink, link: up + h.bait}}},
		{"/vol/sub", []entry{{name: "vol", kind: tar.TypeSymlink, link: h.bait}}},
		{"/vol", []entry{{name: "vol/", kind: tar.TypeDir}, {name: "vol/l", kind: tar.TypeSymlink, link: h.bait + "/file"}, {name: "vol/d", kind: tar.TypeSymlink, link: h.bait}}},
		{"/proc", nil}, {"/proc/self/attr", nil}, {"/proc/sys", nil}, {"/sys", nil}, {"/dev", nil}, {"/etc", nil},
		{"relative/path", nil}, {"/", nil}, {"", nil},
	} {
		name := fmt.Sprintf("volumes%d", i)
		h.image(t, name, map[string]any{"Volumes": map[string]any{v.volume: map[string]any{}}}, v.files...)
		r := h.run(t, `$D run --rm `+name+` sh -c 'cat /vol/file /vol/l /vol/d/file /vol/sub/file `+h.bait+`/file 2>/dev/null; touch /vol/written /vol/sub/written /vol/d/written `+h.bait+`/written 2>/dev/null;`+
			` echo 1 2>/dev/null >/proc/sys/kernel/printk_ratelimit && [ -e /proc/sys/kernel/ostype ] && echo BAD; true'`)
		if r.Code != 0 && r.Code != 125 || strings.Contains(r.Out, "BAD") {
			t.Errorf("VOLUME %q: exit code %d, %q %q", v.volume, r.Code, r.Out, r.Err)
		}
		h.run(t, `$D run --rm --read-only `+name+` true`)
	}
	h.image(t, "filled", nil, entry{name: "data/", kind: tar.TypeDir}, entry{name: "data/image", kind: tar.TypeReg, text: "of the image"})
	h.obey(t,
		step{line: `$D run --rm -v kept:/x plain sh -c 'echo mine >/x/own'`},
		step{line: `$D run --rm -v kept:/data filled ls /data`, out: "own\n"},
		step{line: `$D run --rm -v fresh:/data filled ls /data`, out: "image\n"},
		step{line: `$D run --rm -v fresh:/data filled rm /data/image; $D run --rm -v fresh:/data:nocopy filled ls /data`},
		step{line: `$D volume rm kept fresh`, out: "kept\nfresh\n"},
		// A part of a volume is found inside it.
		step{line: `$D run --rm -v parts:/x plain sh -c 'ln -s ` + h.bait + ` /x/l; ln -s ` + up + h.bait + ` /x/m; mkdir /x/d'`},
		step{line: `$D run --rm --mount type=volume,source=parts,target=/p,volume-subpath=d plain touch /p/made`},
		step{line: `$D run --rm --mount type=volume,source=parts,target=/p,volume-subpath=l plain cat /p/file`, code: 127, err: "has no"},
		step{line: `$D run --rm --mount type=volume,source=parts,target=/p,volume-subpath=m/sub plain cat /p/file`, code: 127, err: "has no"},
		step{line: `$D run --rm --mount type=volume,source=parts,target=/p,volume-subpath=../.. plain ls /p`, code: 125, err: "subpath"},
		step{line: `$D volume rm parts`, out: "parts\n"},
	)
}
