package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berth-engine/berth/internal/registry"
)

// uploads is how many blobs of one image are sent at the same time.
const uploads = 5

// PushOptions say how to push.
type PushOptions struct {
	Platform string // "os/arch[/variant]": its manifest alone; "" for all that is here
	AllTags  bool   // every tag of the repository
	Auth     *Auth
	Progress func(Progress) // may be nil; called by one goroutine at a time, and must not block
}

// Pushed is what a tag leads to at the registry now.
type Pushed struct {
	Tag       string
	Target    ocispec.Descriptor
	InsteadOf *ocispec.Descriptor // the index whose other platforms are neither here nor there; nil if all was pushed
}

// Push sends an image to its registry, or with AllTags every image of the repository. The blobs are those that came
// in, so digests stay. What the registry has is not sent. Of an index, the manifests that are not here have to be
// at the registry already; else the one that is here is pushed in its place. The result holds what was pushed before
// an error too.
func (im *Images) Push(ctx context.Context, ref string, o PushOptions) ([]Pushed, error) {
	name, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, badReference(ref, err)
	}
	if _, ok := name.(reference.Digested); ok {
		return nil, withKind(errdefs.ErrInvalidArgument, "cannot push a digest reference")
	}
	if o.AllTags && !reference.IsNameOnly(name) {
		return nil, withKind(errdefs.ErrInvalidArgument, "tag can't be used with --all-tags/-a")
	}
	if _, _, err := matcher(o.Platform); err != nil {
		return nil, err
	}
	names := []reference.Named{reference.TagNameOnly(name)}
	if o.AllTags {
		if names = im.tagsOf(name); len(names) == 0 {
			return nil, withKind(errdefs.ErrNotFound, "An image does not exist locally with the tag: %s",
				reference.FamiliarName(name))
		}
	} else if _, ok := im.lookupTarget(names[0]); !ok {
		return nil, withKind(errdefs.ErrNotFound, "An image does not exist locally with the tag: %s",
			reference.FamiliarString(names[0]))
	}
	// While this runs, a removal of one of them must not take its blobs away.
	ctx, release, err := im.store.Lease(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	repo, err := im.registry.Repository(ctx, name, o.Auth)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	p := &pushing{im: im, repo: repo, name: name, say: newReporter(o.Progress), done: map[digest.Digest]bool{}}
	var out []Pushed
	for i, n := range names {
		target, ok := im.lookupTarget(n)
		if !ok {
			continue // removed meanwhile
		}
		if i == 0 {
			p.say.say("", "The push refers to repository ["+name.Name()+"]")
		}
		one, err := p.tag(ctx, n, target, o.Platform)
		if err != nil {
			return out, err
		}
		out = append(out, one)
	}
	return out, nil
}

// tagsOf lists the names of a repository that have a tag, sorted.
func (im *Images) tagsOf(repo reference.Named) []reference.Named {
	im.mu.Lock()
	defer im.mu.Unlock()
	var out []reference.Named
	for n := range im.names {
		if ref, err := reference.ParseNormalizedNamed(n); err == nil && ref.Name() == repo.Name() &&
			!strings.HasPrefix(n, danglingPrefix) {
			if _, ok := ref.(reference.Tagged); ok {
				out = append(out, ref)
			}
		}
	}
	slices.SortFunc(out, func(a, b reference.Named) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// pushing is a push to one repository.
type pushing struct {
	im   *Images
	repo *registry.Repository
	name reference.Named
	say  *reporter
	done map[digest.Digest]bool // blobs and manifests that are at the registry
	from map[digest.Digest][]string
}

func (p *pushing) tag(ctx context.Context, name reference.Named, target ocispec.Descriptor, platform string) (Pushed,
	error) {
	out := Pushed{Tag: objectOf(name), Target: target}
	plan, err := p.plan(ctx, target, platform)
	if err != nil {
		return out, err
	}
	if plan.root.Digest != target.Digest {
		out.Target = plan.root
		if platform == "" {
			out.InsteadOf = &target
		}
	}
	if err := p.blobs(ctx, plan.blobs); err != nil {
		return out, err
	}
	for i, m := range plan.manifests {
		tag := ""
		if i == len(plan.manifests)-1 {
			tag = out.Tag
		} else if p.done[m.Digest] {
			continue
		}
		data, err := readBlob(ctx, p.im.store.Content(), m, registry.MaxManifest)
		if err != nil {
			return out, err
		}
		if err := p.repo.PushManifest(ctx, m, data, tag); err != nil {
			return out, err
		}
		p.done[m.Digest] = true
	}
	p.say.say("", fmt.Sprintf("%s: digest: %s size: %d", out.Tag, out.Target.Digest, out.Target.Size))
	return out, nil
}

// plan is what has to be at the registry before root can be.
type plan struct {
	root      ocispec.Descriptor
	manifests []ocispec.Descriptor // what an index needs comes before it; root is the last
	blobs     []ocispec.Descriptor // without those of manifests that are not here
}

func (p *pushing) plan(ctx context.Context, target ocispec.Descriptor, platform string) (*plan, error) {
	if platform == "" {
		out := &plan{root: target}
		missing, err := p.walk(ctx, out, target, top())
		if err != nil || !missing {
			return out, err
		}
	}
	img, err := p.im.load(ctx, target, platform)
	if errdefs.IsNotFound(err) && platform != "" {
		return nil, withKind(errdefs.ErrNotFound,
			"image with reference %s was found but does not provide the specified platform (%s)",
			reference.FamiliarName(p.name), platform)
	}
	if err != nil {
		return nil, err
	}
	out := &plan{root: img.Manifest}
	if missing, err := p.walk(ctx, out, img.Manifest, top()); err != nil {
		return nil, err
	} else if missing {
		return nil, withKind(errdefs.ErrNotFound, "a part of image %s is missing: pull it again",
			reference.FamiliarName(p.name))
	}
	return out, nil
}

// walk collects what lies below desc. It tells whether something is neither here nor at the registry.
func (p *pushing) walk(ctx context.Context, out *plan, desc ocispec.Descriptor, at nesting) (missing bool, err error) {
	if at.depth > maxDepth {
		return false, badImage("its indexes lie too deep in each other")
	}
	here, err := p.im.has(ctx, desc)
	if err != nil {
		return false, err
	}
	if !here {
		there, err := p.repo.HasManifest(ctx, desc)
		return !there, err
	}
	d, err := p.im.document(ctx, desc)
	if err != nil {
		return false, err
	}
	for _, m := range d.Manifests {
		below, first := at.down(m)
		if !first {
			continue
		}
		if missing, err := p.walk(ctx, out, m, below); err != nil || missing {
			return missing, err
		}
	}
	if d.Config != nil {
		for _, b := range append(slices.Clone(d.Layers), *d.Config) {
			if images.IsNonDistributable(b.MediaType) {
				continue // by its definition it does not lie at a registry
			}
			if here, err := p.im.has(ctx, b); err != nil || !here {
				return true, err
			}
			if !slices.ContainsFunc(out.blobs, func(o ocispec.Descriptor) bool { return o.Digest == b.Digest }) {
				out.blobs = append(out.blobs, b)
			}
		}
	}
	out.manifests = append(out.manifests, desc)
	return false, nil
}

// blobs sends what is missing, several at a time.
func (p *pushing) blobs(ctx context.Context, list []ocispec.Descriptor) error {
	list = slices.DeleteFunc(list, func(b ocispec.Descriptor) bool { return p.done[b.Digest] })
	if p.from == nil {
		p.from = p.im.sources(ctx, p.name)
	}
	for _, b := range list {
		if images.IsLayerType(b.MediaType) {
			p.say.say(short(b.Digest), "Preparing")
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for _, b := range list {
		g.Go(func() error { return p.blob(gctx, b) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, b := range list {
		p.done[b.Digest] = true
	}
	return nil
}

func (p *pushing) blob(ctx context.Context, desc ocispec.Descriptor) error {
	ra, err := p.im.store.Content().ReaderAt(ctx, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return fmt.Errorf("layer %s: %w", short(desc.Digest), err)
	}
	defer ra.Close()
	id, said := short(desc.Digest), images.IsLayerType(desc.MediaType)
	blob := registry.Blob{Desc: desc, Content: io.ReaderAt(ra), From: p.from[desc.Digest]}
	if said {
		blob.Progress = func(n int64) { p.say.bytes(id, "Pushing", n, desc.Size) }
	}
	done, err := p.repo.PushBlob(ctx, blob)
	if err != nil || !said {
		return err
	}
	switch {
	case done.Existed:
		p.say.say(id, "Layer already exists")
	case done.MountedFrom != "":
		p.say.say(id, "Mounted from "+done.MountedFrom)
	default:
		p.say.say(id, "Pushed")
	}
	return nil
}

// maxSources is how many repositories are asked for one blob before it is sent.
const maxSources = 3

// sources finds the repositories of the same registry that should have a blob, since images of that name are here.
func (im *Images) sources(ctx context.Context, name reference.Named) map[digest.Digest][]string {
	out := map[digest.Digest][]string{}
	for other, target := range im.neighbours(name) {
		img, err := im.load(ctx, target, "")
		if err != nil {
			continue // without it more is sent
		}
		d, err := im.document(ctx, img.Manifest)
		if err != nil {
			continue
		}
		repo := reference.Path(other)
		for _, l := range d.Layers {
			if list := out[l.Digest]; len(list) < maxSources && !slices.Contains(list, repo) {
				out[l.Digest] = append(list, repo)
			}
		}
	}
	return out
}

// neighbours are the images of other repositories of the registry.
func (im *Images) neighbours(name reference.Named) map[reference.Named]ocispec.Descriptor {
	im.mu.Lock()
	defer im.mu.Unlock()
	out := map[reference.Named]ocispec.Descriptor{}
	for n, is := range im.names {
		ref, err := reference.ParseNormalizedNamed(n)
		if err == nil && !strings.HasPrefix(n, danglingPrefix) && reference.Domain(ref) == reference.Domain(name) &&
			ref.Name() != name.Name() && n != builtinName {
			out[ref] = is.target
		}
	}
	return out
}
