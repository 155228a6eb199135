package image

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berth-engine/berth/internal/registry"
)

// maxDepth is how deep an index may lie in an index.
const maxDepth = 4

// PullOptions say how to pull.
type PullOptions struct {
	Platform string // "os/arch[/variant]", "" for the host's
	AllTags  bool   // every tag of the repository
	Auth     *Auth
	Progress func(Progress) // may be nil; called by one goroutine at a time, and must not block
}

// Pull fetches an image from its registry and returns it. With AllTags it fetches all of the repository's and returns
// the last. What is in the store already is not fetched again. When it fails, no name has changed, and
// the next Pull goes on with the layers and the parts of layers that are there.
func (im *Images) Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	name, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, badReference(ref, err)
	}
	if o.AllTags && !reference.IsNameOnly(name) {
		return nil, withKind(errdefs.ErrInvalidArgument, "tag can't be used with --all-tags/-a")
	}
	if _, _, err := matcher(o.Platform); err != nil {
		return nil, err
	}
	say := newReporter(o.Progress)
	if !o.AllTags && isBuiltin(ref) {
		return im.pullBuiltin(ctx, say)
	}
	repo, err := im.registry.Repository(ctx, name, o.Auth)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	defer trim()
	repo.OnPause = say.pause
	if !o.AllTags {
		return im.pullOne(ctx, repo, reference.TagNameOnly(name), o.Platform, say)
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return nil, err
	}
	var last *Image
	for _, t := range tags {
		one, err := reference.WithTag(name, t)
		if err != nil {
			return nil, fmt.Errorf("tag %q of %s: %w", t, reference.FamiliarName(name), err)
		}
		if last, err = im.pullOne(ctx, repo, one, o.Platform, say); err != nil {
			return nil, err
		}
	}
	if last == nil {
		return nil, withKind(errdefs.ErrNotFound, "repository %s has no tags", reference.FamiliarName(name))
	}
	return last, nil
}

func (im *Images) pullOne(ctx context.Context, repo *registry.Repository, ref reference.Named, platform string,
	say *reporter) (_ *Image, err error) {
	// Nothing is said before it is known that there is something: the API answers with a status until then.
	target, err := repo.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	say.say(objectOf(ref), "Pulling from "+reference.Path(ref))
	old, _ := im.lookupTarget(ref)
	img, err := im.bring(ctx, target, platform, repo.Fetch, say, storedName(ref))
	if err != nil {
		return nil, err
	}
	say.say("", "Digest: "+target.Digest.String())
	if old.Digest == target.Digest {
		say.say("", "Status: Image is up to date for "+reference.FamiliarString(ref))
	} else {
		say.say("", "Status: Downloaded newer image for "+reference.FamiliarString(ref))
	}
	return img, nil
}

// objectOf is the tag of a reference, or its digest.
func objectOf(ref reference.Named) string {
	if d, ok := ref.(reference.Digested); ok {
		return d.Digest().String()
	}
	if t, ok := ref.(reference.Tagged); ok {
		return t.Tag()
	}
	return ""
}

func (im *Images) lookupTarget(ref reference.Named) (ocispec.Descriptor, bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	n, ok := im.names[storedName(ref)]
	return n.target, ok
}

// bring fetches everything below target for a platform, unpacks it, and gives it the names. It is all or nothing, but
// what failed for want of the network or of patience leaves what it has for the next try.
func (im *Images) bring(ctx context.Context, target ocispec.Descriptor, platform string, fetch fetcher, say *reporter,
	names ...string) (*Image, error) {
	ctx, end, err := im.store.Continue(ctx, "pull "+target.Digest.String()+" "+platform, "pull of "+familiar(names[0]))
	if err != nil {
		return nil, err
	}
	err = im.bringLeased(ctx, target, platform, fetch, say)
	if err == nil {
		err = im.give(ctx, target, names)
	}
	end(err != nil && worthKeeping(err))
	im.store.Settle()
	defer im.grown()
	if err != nil {
		if isFull(err) {
			// An error leaves them to their expiry.
			_ = im.store.DropKept(context.WithoutCancel(ctx))
		}
		im.clean(ctx)
		return nil, err
	}
	im.forget(target.Digest)
	return im.load(ctx, target, platform)
}

// worthKeeping tells whether what failed work has brought may serve the next try. What is wrong by itself does not.
func worthKeeping(err error) bool {
	return !isFull(err) && (isCancel(err) || errdefs.IsUnavailable(err) || errdefs.IsResourceExhausted(err))
}

// isFull tells whether there was no room on the disk.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// give gives a target its names, or the hidden one if there are none.
func (im *Images) give(ctx context.Context, target ocispec.Descriptor, names []string) error {
	c := change{set: map[string]ocispec.Descriptor{}}
	for _, n := range names {
		c.set[n] = target
	}
	if len(names) == 0 && len(im.namesOf(target.Digest)) == 0 {
		c.set[danglingPrefix+target.Digest.String()] = target
	}
	return im.apply(context.WithoutCancel(ctx), c)
}

// clean removes what failed work has left, also when ctx is cancelled.
func (im *Images) clean(ctx context.Context) {
	// An error leaves the garbage to the next collection.
	_ = im.store.GC(context.WithoutCancel(ctx))
}

func (im *Images) bringLeased(ctx context.Context, target ocispec.Descriptor, platform string, fetch fetcher,
	say *reporter) error {
	m, exact, err := matcher(platform)
	if err != nil {
		return err
	}
	way, d, err := im.descend(ctx, target, m, platform, fetch, 0)
	if err != nil {
		return err
	}
	if d.artifact() != "" {
		return im.bringArtifact(ctx, way, d, fetch, say)
	}
	manifest := way[len(way)-1].desc
	if err := checkLayers(d.Layers); err != nil {
		return err
	}
	data, err := im.fetchSmall(ctx, *d.Config, maxConfig, fetch)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	config, err := parseConfig(data, len(d.Layers))
	if err != nil {
		return err
	}
	// An index may know better than the configuration what it is for: people annotate it.
	if have := platformOf(config); exact && manifest.Platform == nil && have.OS != "" && !m.Match(have) {
		return noPlatform(platform)
	}
	if config.OS != "" && config.OS != "linux" {
		return badImage("it is for %q and runs on Linux nowhere", config.OS)
	}
	way = append(way, blob{*d.Config, data, configLabels(chainOf(config.RootFS.DiffIDs))})
	// The layers do not wait for the database to have written these: the lease protects all of them.
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return im.putAll(both, way) })
	g.Go(func() error { return im.unpack(both, d.Layers, config.RootFS.DiffIDs, fetch, say) })
	if err := g.Wait(); err != nil {
		return err
	}
	if !images.IsIndexType(target.MediaType) {
		return nil
	}
	return im.bringAttested(ctx, target, manifest.Digest, fetch, top())
}

// bringArtifact fetches what is no image. Nothing of it is looked into.
func (im *Images) bringArtifact(ctx context.Context, way []blob, d *document, fetch fetcher, say *reporter) error {
	for _, l := range d.Layers {
		if images.IsNonDistributable(l.MediaType) {
			return badImage("its layer %s is foreign: it lies outside of the registry and is not fetched", l.Digest)
		}
	}
	data, err := im.fetchSmall(ctx, *d.Config, maxConfig, fetch)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := im.putAll(ctx, append(way, blob{*d.Config, data, nil})); err != nil {
		return err
	}
	return im.collect(ctx, d.Layers, fetch, say)
}

func platformOf(config *dockerspec.DockerOCIImage) ocispec.Platform {
	return platforms.Normalize(ocispec.Platform{OS: config.OS, Architecture: config.Architecture,
		Variant: config.Variant})
}

func noPlatform(platform string) error {
	if platform == "" {
		platform = platforms.Format(platforms.DefaultSpec())
	}
	return withKind(errdefs.ErrNotFound, "no matching manifest for %s in the manifest list entries", platform)
}

// descend goes from a target through indexes to the manifest for a platform, and returns what it read on its way.
func (im *Images) descend(ctx context.Context, desc ocispec.Descriptor, m platforms.MatchComparer, platform string, fetch fetcher,
	depth int) ([]blob, *document, error) {
	d, data, err := im.fetchManifest(ctx, desc, fetch)
	if err != nil {
		return nil, nil, err
	}
	if !images.IsIndexType(desc.MediaType) {
		return []blob{{desc, data, manifestLabels(d)}}, d, nil
	}
	child, ok := choose(d.Manifests, m)
	if !ok {
		return nil, nil, noPlatform(platform)
	}
	if depth >= maxDepth {
		return nil, nil, badImage("its indexes lie too deep in each other")
	}
	way, leaf, err := im.descend(ctx, child, m, platform, fetch, depth+1)
	return append([]blob{{desc, data, indexLabels(child)}}, way...), leaf, err
}

// isCancel tells whether an error is that somebody did not want to wait any more.
func isCancel(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
