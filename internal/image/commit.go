package image

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-engine/berth/internal/store"
)

// CommitOptions describe an image that is made of another one and a layer.
type CommitOptions struct {
	Ref       string // "" for an image without a name
	Parent    string // ID of the image below
	Platform  string // which of its platforms; "" for the one that is here
	Chain     string // the layers below, as the container has them
	Config    dockerspec.DockerOCIImageConfig
	Changes   []string // instructions as in a Dockerfile, applied to Config
	CreatedBy string
	Author    string
	Comment   string
	Squash    bool // make one layer of everything: layer writes all files, and the history begins anew
}

// Commit makes an image of the one a container stands on and of what the container changed. layer writes that as the
// archive of a layer; it is called once, after everything that can be wrong with the options has been looked at.
func (im *Images) Commit(ctx context.Context, o CommitOptions, layer func(w io.Writer) error) (*Image, error) {
	var names []string
	if o.Ref != "" {
		name, err := parseName(o.Ref)
		if err != nil {
			return nil, err
		}
		if _, ok := name.(reference.Digested); ok || name.String() == builtinName {
			return nil, withKind(errdefs.ErrInvalidArgument, "an image made of a container cannot be named %q", o.Ref)
		}
		names = append(names, name.String())
	}
	for _, c := range instructions(o.Changes) {
		if err := applyChange(&o.Config, c); err != nil {
			return nil, err
		}
	}
	defer trim()
	ctx, release, err := im.store.Lease(ctx)
	if err != nil {
		return nil, err
	}
	target, err := im.commitLeased(ctx, &o, layer)
	if err == nil {
		err = im.give(ctx, target, names)
	}
	release()
	im.store.Settle()
	defer im.grown()
	if err != nil {
		im.clean(ctx)
		return nil, err
	}
	im.forget(target.Digest)
	return im.load(ctx, target, "")
}

func (im *Images) commitLeased(ctx context.Context, o *CommitOptions, layer func(w io.Writer) error) (target ocispec.Descriptor,
	err error) {
	parent, d, err := im.below(ctx, o)
	if err != nil {
		return target, err
	}
	config := parent.Config
	if o.Squash {
		parent, d, config.History = &Image{}, &document{}, nil
	}
	if len(d.Layers) >= store.MaxLayers {
		return target, withKind(errdefs.ErrInvalidArgument, "the image has %d layers already, and more are not possible",
			len(d.Layers))
	}
	st, err := im.store.Stage(ctx)
	if err != nil {
		return target, err
	}
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := layer(w)
		_ = w.CloseWithError(err)
		written <- err
	}()
	desc, diff, err := im.storeLayer(ctx, r, st, len(parent.Layers) == 0)
	_ = r.CloseWithError(io.ErrClosedPipe)
	if werr := <-written; werr != nil && !isClosed(werr) {
		err = werr // it is why the stream ended
	}
	if err != nil {
		st.Abort(ctx)
		return target, err
	}
	now := im.now().UTC()
	diffs := append(slices.Clone(parent.Layers), diff)
	if err := st.Commit(ctx, identity.ChainID(slices.Clone(diffs)), parent.Chain); err != nil {
		return target, err
	}
	image := dockerspec.DockerOCIImage{Image: config, Config: o.Config}
	image.Created, image.Author = &now, o.Author
	image.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: diffs}
	image.History = append(slices.Clone(config.History), ocispec.History{Created: &now, CreatedBy: o.CreatedBy,
		Author: o.Author, Comment: o.Comment})
	return im.write(ctx, image, append(slices.Clone(d.Layers), desc))
}

// below finds the image that a container stands on, and protects all of it by the lease of ctx.
func (im *Images) below(ctx context.Context, o *CommitOptions) (*Image, *document, error) {
	parent, err := im.Resolve(ctx, o.Parent, o.Platform)
	if errdefs.IsNotFound(err) {
		return nil, nil, withKind(errdefs.ErrNotFound,
			"the image %s, on which the container stands, has been removed: pull it again, or use \"export\" and \"import\"",
			o.Parent)
	}
	if err != nil {
		return nil, nil, err
	}
	if parent.Chain != digest.Digest(o.Chain) {
		return nil, nil, withKind(errdefs.ErrConflict, "the image %s stands for other layers now than the container's", o.Parent)
	}
	d, err := im.document(ctx, parent.Manifest)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range d.Layers {
		if here, err := im.has(ctx, l); err != nil {
			return nil, nil, err
		} else if !here {
			return nil, nil, withKind(errdefs.ErrNotFound, "layer %s of image %s is missing: pull it again", short(l.Digest),
				o.Parent)
		}
	}
	if here, err := im.store.HasChain(ctx, parent.Chain); err != nil {
		return nil, nil, err
	} else if !here {
		return nil, nil, withKind(errdefs.ErrNotFound, "the layers of image %s are missing: pull it again", o.Parent)
	}
	return parent, d, nil
}

// MergeConfig completes a configuration by that of a container, as Docker does for commit: what is said stays, lists of
// names are united.
func MergeConfig(c *dockerspec.DockerOCIImageConfig, from dockerspec.DockerOCIImageConfig) {
	if c.User == "" {
		c.User = from.User
	}
	if c.WorkingDir == "" {
		c.WorkingDir = from.WorkingDir
	}
	if c.StopSignal == "" {
		c.StopSignal = from.StopSignal
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = from.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = from.Entrypoint
		}
	}
	if c.Healthcheck == nil {
		c.Healthcheck = from.Healthcheck
	}
	if c.Shell == nil {
		c.Shell = from.Shell
	}
	if c.OnBuild == nil {
		c.OnBuild = from.OnBuild
	}
	for _, e := range from.Env {
		key, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(c.Env, func(have string) bool { k, _, _ := strings.Cut(have, "="); return k == key }) {
			c.Env = append(c.Env, e)
		}
	}
	c.ExposedPorts = united(c.ExposedPorts, from.ExposedPorts)
	c.Volumes = united(c.Volumes, from.Volumes)
	c.Labels = united(c.Labels, from.Labels)
}

// united is both maps in one; of two values, the first counts.
func united[V any](a, b map[string]V) map[string]V {
	if len(a) == 0 {
		return maps.Clone(b)
	}
	out := maps.Clone(b)
	if out == nil {
		out = map[string]V{}
	}
	maps.Copy(out, a)
	return out
}

// isClosed tells that a stream ended because nobody reads it any more.
func isClosed(err error) bool { return errors.Is(err, io.ErrClosedPipe) }
