package cli

import (
	"testing"

	"github.com/berth-engine/berth/internal/berthapi"
)

func TestCheckText(t *testing.T) {
	r := &berthapi.Check{Blobs: 3, Layers: 1, Images: 1, Bytes: 2000, Busy: true, Findings: []berthapi.Finding{
		{Kind: "layer", Object: "sha256:a", Problem: "has lost its directory /x", Repaired: true},
		{Kind: "image", Object: "b:1", Problem: "lacks the layer sha256:c", Remedy: "pull or load it once more"},
	}}
	want := `✓ layer sha256:a has lost its directory /x (repaired)
✗ image b:1 lacks the layer sha256:c
    → pull or load it once more
Looked at 3 blobs, 1 layers, 1 images, 0 containers and 0 volumes; compared 2kB with their digests.
Images are being brought in or read: whether something is stored that nobody owns was not looked at, and no blob was dropped. Check again when that is over.
1 left that cannot be mended here.
`
	if got := checkText(r, true); got != want {
		t.Errorf("got:\n%s\nwanted:\n%s", got, want)
	}
	r.Findings[1].Repaired, r.Busy = true, false
	if got, want := checkText(r, true), "All of it is repaired.\n"; got[len(got)-len(want):] != want {
		t.Errorf("got:\n%s", got)
	}
}
