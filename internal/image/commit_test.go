package image

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestCommit(t *testing.T) {
	im := open(t)
	ctx := t.Context()
	f := serve(t, build(t, ocispec.Image{}, rootTar(t, "kept", "1", "gone", "2")))
	parent, err := im.Pull(ctx, f.addr+"/x:1", PullOptions{})
	must(t, err)
	o := CommitOptions{Ref: "made:1", Parent: parent.ID, Chain: parent.Chain.String(), Author: "Ann", Comment: "message",
		CreatedBy: "sh -c x", Changes: []string{"CMD [\"a\"]", "ENV B=2"}}
	o.Config.Env = []string{"A=1"}
	layer := func(w io.Writer) error {
		_, err := w.Write(rootTar(t, "new", "3", ".wh.gone", ""))
		return err
	}
	img, err := im.Commit(ctx, o, layer)
	must(t, err)
	if fileOf(t, im, img, "new") != "3" || fileOf(t, im, img, "kept") != "1" || len(img.Layers) != 2 ||
		img.Layers[0] != parent.Layers[0] || !slices.Equal(img.RepoTags, []string{"made:1"}) || img.Config.Author != "Ann" ||
		!slices.Equal(img.Config.Config.Cmd, []string{"a"}) || !slices.Equal(img.Config.Config.Env, []string{"A=1", "B=2"}) ||
		img.Comment != "message" {
		t.Errorf("%+v", img)
	}
	lowers, err := im.store.Lowers(ctx, img.Chain)
	must(t, err)
	if st, err := os.Lstat(filepath.Join(lowers[0], "gone")); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("nothing hides what was removed: %v, %v", st, err)
	}
	// What is made of it is an image like others, and has all it needs when the first one goes.
	_, err = im.Remove(ctx, parent.ID, RemoveOptions{Force: true})
	must(t, err)
	o.Ref, o.Parent, o.Chain = "made:2", img.ID, img.Chain.String()
	again, err := im.Commit(ctx, o, layer)
	must(t, err)
	if fileOf(t, im, again, "kept") != "1" || len(again.Layers) != 3 {
		t.Errorf("%+v", again)
	}

	count, _ := im.Count(ctx)
	broken := errors.New("the disk")
	for name, c := range map[string]struct {
		change func(o *CommitOptions)
		layer  func(w io.Writer) error
		is     func(error) bool
	}{
		"no parent":   {func(o *CommitOptions) { o.Parent = parent.ID }, layer, errdefs.IsNotFound},
		"other chain": {func(o *CommitOptions) { o.Chain = "sha256:" + parent.Chain.Encoded() }, layer, errdefs.IsConflict},
		"change":      {func(o *CommitOptions) { o.Changes = []string{"FROM x"} }, layer, errdefs.IsInvalidArgument},
		"name":        {func(o *CommitOptions) { o.Ref = "a@" + img.ID }, layer, errdefs.IsInvalidArgument},
		"half a layer": {nil, func(w io.Writer) error {
			_, _ = w.Write(rootTar(t, "half", "x")[:600])
			return broken
		}, func(err error) bool { return errors.Is(err, broken) }},
	} {
		o := o
		if c.change != nil {
			c.change(&o)
		}
		if _, err := im.Commit(ctx, o, c.layer); err == nil || !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n, _ := im.Count(ctx); n != count {
		t.Errorf("%d images instead of %d", n, count)
	}
}

func TestMergeConfig(t *testing.T) {
	var own, from dockerspec.DockerOCIImageConfig
	own.Env, from.Env = []string{"A=own"}, []string{"A=1", "B=2"}
	own.Labels, from.Labels = map[string]string{"a": "own"}, map[string]string{"a": "1", "b": "2"}
	own.Cmd, from.Cmd, from.Entrypoint = []string{"own"}, []string{"cmd"}, []string{"entry"}
	from.User, from.WorkingDir = "user", "/dir"
	MergeConfig(&own, from)
	if !slices.Equal(own.Env, []string{"A=own", "B=2"}) || own.Labels["a"] != "own" || own.Labels["b"] != "2" ||
		!slices.Equal(own.Cmd, []string{"own"}) || !slices.Equal(own.Entrypoint, []string{"entry"}) || own.User != "user" ||
		own.WorkingDir != "/dir" || from.Labels["a"] != "1" {
		t.Errorf("%+v", own)
	}
}
