package image

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func inspectDigest(t *testing.T, ref string) string {
	t.Helper()
	out, err := exec.Command("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+ref).Output()
	if err != nil {
		t.Fatalf("skopeo inspect %s: %v", ref, err)
	}
	return digest.FromBytes(out).String()
}

func TestPushToDockersRegistry(t *testing.T) {
	addr := startRegistry(t)
	im := open(t)
	ctx := t.Context()
	b := build(t, ocispec.Image{}, rootTar(t, "one", "1"), rootTar(t, "two", string(noise(5<<20))))
	b.push(t, addr+"/team/app:v1")
	img, err := im.Pull(ctx, addr+"/team/app:v1", PullOptions{})
	must(t, err)

	var s statuses
	must(t, im.Tag(ctx, img.ID, addr+"/other/app:v1"))
	must(t, im.Tag(ctx, img.ID, addr+"/other/app:v2"))
	pushed, err := im.Push(ctx, addr+"/other/app:v1", PushOptions{Progress: s.add})
	must(t, err)
	if len(pushed) != 1 || pushed[0].Tag != "v1" || pushed[0].Target.Digest.String() != img.ID ||
		pushed[0].InsteadOf != nil || inspectDigest(t, addr+"/other/app:v1") != img.ID {
		t.Errorf("%+v", pushed)
	}
	if s.list[0] != "The push refers to repository ["+addr+"/other/app]" || s.count(": Preparing") != 2 ||
		s.count(": Mounted from team/app") != 2 || !strings.HasPrefix(s.list[len(s.list)-1], "v1: digest: "+img.ID) {
		t.Errorf("%q", s.list)
	}

	// Without the other name there is nothing to mount from; the bytes are there, though.
	s.list = nil
	pushed, err = im.Push(ctx, addr+"/other/app", PushOptions{AllTags: true, Progress: s.add})
	must(t, err)
	if len(pushed) != 2 || pushed[1].Tag != "v2" || s.count(": Layer already exists") != 2 {
		t.Errorf("%+v %q", pushed, s.list)
	}
	for _, tag := range []string{":v1", ":v2"} {
		if inspectDigest(t, addr+"/other/app"+tag) != img.ID {
			t.Errorf("another digest for %s", tag)
		}
	}

	// A registry that has nothing of it gets all, and a second engine reads the same from there.
	fresh := startRegistry(t)
	s.list = nil
	must(t, im.Tag(ctx, img.ID, fresh+"/app:v1"))
	_, err = im.Push(ctx, fresh+"/app:v1", PushOptions{Progress: s.add})
	must(t, err)
	if s.count(": Pushed") != 2 {
		t.Errorf("%q", s.list)
	}
	again, err := open(t).Pull(ctx, fresh+"/app:v1", PullOptions{})
	must(t, err)
	if again.ID != img.ID || !slices.Equal(again.Layers, img.Layers) {
		t.Errorf("%+v", again)
	}
}

func TestPushOfAnIndex(t *testing.T) {
	addr, fresh := startRegistry(t), startRegistry(t)
	im := open(t)
	ctx := t.Context()
	b := severalPlatforms(t)
	b.push(t, addr+"/app:v1")
	img, err := im.Pull(ctx, addr+"/app:v1", PullOptions{})
	must(t, err)

	// The same registry has the other platform: the index is kept.
	must(t, im.Tag(ctx, img.ID, addr+"/app:v2"))
	pushed, err := im.Push(ctx, addr+"/app:v2", PushOptions{})
	must(t, err)
	if pushed[0].InsteadOf != nil || inspectDigest(t, addr+"/app:v2") != img.ID {
		t.Errorf("%+v", pushed)
	}
	// Another one gets what is here.
	must(t, im.Tag(ctx, img.ID, fresh+"/app:v1"))
	pushed, err = im.Push(ctx, fresh+"/app:v1", PushOptions{})
	must(t, err)
	if pushed[0].InsteadOf == nil || pushed[0].InsteadOf.Digest.String() != img.ID ||
		inspectDigest(t, fresh+"/app:v1") != img.Manifest.Digest.String() {
		t.Errorf("%+v", pushed)
	}
	if _, err := im.Push(ctx, fresh+"/app:v1", PushOptions{Platform: "linux/s390x"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestPushRefusals(t *testing.T) {
	im := open(t)
	for ref, says := range map[string]string{
		"localhost:1/none:1": "An image does not exist locally with the tag: localhost:1/none:1",
		"a/B":                "invalid reference format: repository name (a/B) must be lowercase",
		"a@sha256:ab33eacc8251e3807b85bb6dba570e4698c3998eca6f0fc2ccb60575a563ea74": "cannot push a digest reference",
	} {
		if _, err := im.Push(t.Context(), ref, PushOptions{}); err == nil || err.Error() != says {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := im.Push(t.Context(), "none", PushOptions{AllTags: true}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
