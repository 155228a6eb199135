package image

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Removed is one line of what a removal did: a name that was taken away, or an image that is gone.
type Removed struct {
	Untagged string // "busybox:latest"
	Deleted  string // "sha256:…"
}

// RemoveOptions say how to remove.
type RemoveOptions struct {
	Force   bool
	NoPrune bool // as Docker has it: untagged parents are kept. We keep no parents, so it changes nothing
	// InUse lists the IDs of the containers made of an image. Nil means that there are none.
	InUse func(imageID string) (containers []string)
	// Running tells whether a container runs. Nil means that none does.
	Running func(container string) bool
}

func (o *RemoveOptions) users(id string) (running, stopped string) {
	if o.InUse == nil {
		return "", ""
	}
	for _, c := range o.InUse(id) {
		if o.Running != nil && o.Running(c) {
			running = c
		} else {
			stopped = c
		}
	}
	return running, stopped
}

// Remove takes a name from an image, and removes the image with its last one; given an ID, it removes the image. What
// containers use is removed by force only, and not at all while they run; the layers they stand on stay until
// ReleaseLayers. The texts of refusals are Docker's.
func (im *Images) Remove(ctx context.Context, nameOrID string, o RemoveOptions) ([]Removed, error) {
	removed, err := im.remove(ctx, nameOrID, &o)
	if err != nil {
		return removed, err
	}
	if slices.ContainsFunc(removed, func(r Removed) bool { return r.Deleted != "" }) {
		return removed, im.store.GC(context.WithoutCancel(ctx))
	}
	return removed, nil
}

func (im *Images) remove(ctx context.Context, nameOrID string, o *RemoveOptions) ([]Removed, error) {
	im.hold.Lock()
	defer im.hold.Unlock()
	target, byName, err := im.find(nameOrID)
	if err != nil {
		return nil, err
	}
	id := target.Digest.String()
	names := im.namesOf(target.Digest)
	running, stopped := o.users(id)
	user := running
	if user == "" {
		user = stopped
	}
	var out []Removed
	drop := names
	if byName != "" {
		if drop, err = im.dropByName(nameOrID, byName, names); err != nil {
			return nil, err
		}
		last := len(drop) == len(names)
		if last && user != "" && !o.Force {
			return nil, withKind(errdefs.ErrConflict,
				"conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
				nameOrID, shortID(user), shortID(id))
		}
		if !last || running != "" {
			return im.untag(ctx, target, drop)
		}
	} else {
		switch {
		case running != "":
			return nil, deleteConflict(id, "cannot be forced",
				"image is being used by running container "+shortID(running))
		case !o.Force && severalRepositories(names):
			return nil, deleteConflict(id, "must be forced", "image is referenced in multiple repositories")
		case !o.Force && stopped != "":
			return nil, deleteConflict(id, "must be forced",
				"image is being used by stopped container "+shortID(stopped))
		}
	}
	for _, n := range drop {
		out = append(out, Removed{Untagged: familiar(n)})
	}
	if err := im.delete(ctx, target, names, user != ""); err != nil {
		return nil, err
	}
	return append(out, Removed{Deleted: id}), nil
}

func deleteConflict(id, what, why string) error {
	return withKind(errdefs.ErrConflict, "conflict: unable to delete %s (%s) - %s", shortID(id), what, why)
}

// dropByName lists the names that go when one is removed. With the last tag of a repository, the digests of it go too.
func (im *Images) dropByName(asked, name string, names []string) ([]string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(names, name) {
		// It was found by a digest in a repository where only tags lead to it.
		askedRef, err := reference.ParseNormalizedNamed(asked)
		if err != nil {
			return nil, err
		}
		ref = reference.TrimNamed(askedRef)
		return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return repositoryOf(n) != ref.Name() }), nil
	}
	drop := []string{name}
	if _, tagged := ref.(reference.Tagged); !tagged {
		return drop, nil
	}
	rest := slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		return n == name ||
			repositoryOf(n) != ref.Name()
	})
	if !slices.ContainsFunc(rest, func(n string) bool { return !strings.Contains(n, "@") }) {
		drop = append(drop, rest...)
	}
	return drop, nil
}

func repositoryOf(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return ref.Name()
}

// severalRepositories tells whether the names are more than one tag, or of more than one repository.
func severalRepositories(names []string) bool {
	tags := 0
	for _, n := range names {
		if repositoryOf(n) != repositoryOf(names[0]) {
			return true
		}
		if !strings.Contains(n, "@") {
			tags++
		}
	}
	return tags > 1
}

// untag takes names away and leaves the image, which gets the hidden name if it has no other.
func (im *Images) untag(ctx context.Context, target ocispec.Descriptor, drop []string) ([]Removed, error) {
	c := change{remove: slices.Clone(drop)}
	if len(drop) == len(im.namesOf(target.Digest)) {
		c.set = map[string]ocispec.Descriptor{danglingPrefix + target.Digest.String(): target}
	}
	if err := im.apply(context.WithoutCancel(ctx), c); err != nil {
		return nil, err
	}
	var out []Removed
	for _, n := range drop {
		out = append(out, Removed{Untagged: familiar(n)})
	}
	return out, nil
}

// delete takes all names away. What containers stand on is pinned before.
func (im *Images) delete(ctx context.Context, target ocispec.Descriptor, names []string, used bool) error {
	ctx = context.WithoutCancel(ctx)
	if used {
		for _, chain := range im.chainsOfTarget(ctx, target) {
			if err := im.store.Pin(ctx, chain); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("keep the layers for containers: %w", err)
			}
		}
	}
	err := im.apply(ctx, change{remove: append(slices.Clone(names), danglingPrefix+target.Digest.String())})
	if err != nil {
		return err
	}
	im.forget(target.Digest)
	return nil
}

// chainsOfTarget lists the chains of every platform of a target that is there.
func (im *Images) chainsOfTarget(ctx context.Context, target ocispec.Descriptor) []digest.Digest {
	var out []digest.Digest
	for _, m := range im.manifests(im.store.Context(ctx), target, top()) {
		img := &Image{}
		if d, err := im.document(im.store.Context(ctx), m); err == nil && im.fillConfig(im.store.Context(ctx), img,
			d) == nil {
			out = append(out, img.Chain)
		}
	}
	return out
}

// ReleaseLayers is told that a container is gone which stood on chain, "" for any. If no image and no container has a
// chain that was pinned for containers, it is collected. inUse lists the chains containers stand on.
func (im *Images) ReleaseLayers(chain string, inUse func() map[string]bool) {
	ctx := context.Background()
	if chain != "" {
		if pinned, err := im.store.IsPinned(ctx, digest.Digest(chain)); err != nil || !pinned {
			return
		}
	}
	im.hold.Lock()
	defer im.hold.Unlock()
	pinned, err := im.store.Pinned(ctx)
	if err != nil || len(pinned) == 0 {
		return
	}
	used := inUse()
	collect := false
	for _, c := range pinned {
		// The names of images protect by themselves.
		if !used[c.String()] && im.store.Unpin(ctx, c) == nil {
			collect = true
		}
	}
	if collect {
		im.clean(ctx)
	}
}

// PruneOptions say what to prune.
type PruneOptions struct {
	Choose  func(Image) bool // nil: images without a name
	InUse   func(imageID string) (containers []string)
	Running func(container string) bool

	Unfinished bool // also what pulls that failed have left for the next try
}

// PruneReport is what pruning did.
type PruneReport struct {
	Removed   []Removed
	Reclaimed int64 // bytes
}

// Prune removes every image that is chosen and that no container uses, and what of unfinished pulls is kept.
func (im *Images) Prune(ctx context.Context, o PruneOptions) (PruneReport, error) {
	var report PruneReport
	list, err := im.List(ctx)
	if err != nil {
		return report, err
	}
	before, err := im.Usage(ctx)
	if err != nil {
		return report, err
	}
	for _, img := range list {
		if err := ctx.Err(); err != nil {
			return report, err
		}
		choose := o.Choose
		if choose == nil {
			choose = func(i Image) bool { return len(i.RepoTags) == 0 }
		}
		if !choose(img) || img.Pinned || o.InUse != nil && len(o.InUse(img.ID)) > 0 {
			continue
		}
		removed, err := im.remove(ctx, img.ID, &RemoveOptions{Force: true, InUse: func(id string) []string {
			if o.InUse == nil {
				return nil
			}
			return o.InUse(id)
		}, Running: func(string) bool { return true }}) // somebody made a container of it meanwhile: it stays
		if errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
			continue
		}
		if err != nil {
			return report, err
		}
		report.Removed = append(report.Removed, removed...)
	}
	if o.Unfinished {
		if err := im.store.DropKept(ctx); err != nil {
			return report, err
		}
	}
	if err := im.store.GC(context.WithoutCancel(ctx)); err != nil {
		return report, err
	}
	after, err := im.Usage(ctx)
	report.Reclaimed = max(0, before-after)
	return report, err
}

// Usage is the space that images take on the disk, in bytes: blobs and unpacked layers, each once.
func (im *Images) Usage(ctx context.Context) (int64, error) { return im.store.Usage(ctx) }
