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

// noSuchImage has Docker's text, on which its client decides to pull.
type noSuchImage struct{ name string }

func (e *noSuchImage) Error() string { return "No such image: " + e.name }
func (e *noSuchImage) Unwrap() error { return errdefs.ErrNotFound }

// Resolve finds an image by its ID, by the beginning of its ID, by a name, by a name and a digest. platform is "", or
// "os/arch[/variant]" to insist on one. The image that ships with the program is put into the store when it is asked
// for and absent. The error wraps errdefs.ErrNotFound when there is none.
func (im *Images) Resolve(ctx context.Context, nameOrID, platform string) (*Image, error) {
	target, _, err := im.find(nameOrID)
	if errdefs.IsNotFound(err) && isBuiltin(nameOrID) {
		if berr := im.EnsureBuiltin(ctx); berr != nil {
			return nil, berr
		}
		target, _, err = im.find(nameOrID)
	}
	if err != nil {
		return nil, err
	}
	img, err := im.load(ctx, target, platform)
	if errdefs.IsNotFound(err) && platform != "" {
		return nil, withKind(errdefs.ErrNotFound,
			"image with reference %s was found but does not provide the specified platform (%s)", nameOrID, platform)
	}
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", nameOrID, err)
	}
	return img, nil
}

// find finds a target. name is the name by which it was found, "" if that was its ID.
func (im *Images) find(nameOrID string) (target ocispec.Descriptor, name string, err error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if d, err := digest.Parse(nameOrID); err == nil {
		for _, n := range im.names {
			if n.target.Digest == d {
				return n.target, "", nil
			}
		}
		return target, "", &noSuchImage{nameOrID}
	}
	ref, perr := reference.ParseNormalizedNamed(nameOrID)
	if perr == nil {
		if n, ok := im.lookup(ref); ok {
			return n.target, storedName(ref), nil
		}
	}
	if hex := strings.TrimPrefix(nameOrID, "sha256:"); isHex(hex) {
		target, err := im.byPrefix(hex)
		if err != nil || target.Digest != "" {
			return target, "", err
		}
	}
	if perr != nil {
		if strings.HasPrefix(nameOrID, "sha256:") {
			return target, "", &noSuchImage{nameOrID}
		}
		return target, "", badReference(nameOrID, perr)
	}
	return target, "", &noSuchImage{reference.FamiliarString(reference.TagNameOnly(ref))}
}

// storedName is the name under which the database has what lookup finds.
func storedName(ref reference.Named) string {
	if d, ok := ref.(reference.Digested); ok {
		return reference.TrimNamed(ref).Name() + "@" + d.Digest().String()
	}
	return reference.TagNameOnly(ref).String()
}

// lookup finds a name. With a digest in it, the name of the repository counts and the tag does not: any name of the
// repository that leads there will do.
func (im *Images) lookup(ref reference.Named) (named, bool) {
	d, ok := ref.(reference.Digested)
	if !ok {
		n, ok := im.names[reference.TagNameOnly(ref).String()]
		return n, ok
	}
	for name, n := range im.names {
		if n.target.Digest != d.Digest() || strings.HasPrefix(name, danglingPrefix) {
			continue
		}
		if other, err := reference.ParseNormalizedNamed(name); err == nil && other.Name() == ref.Name() {
			return n, true
		}
	}
	return named{}, false
}

// byPrefix finds a target by the beginning of its digest. It is empty if there is none.
func (im *Images) byPrefix(hex string) (ocispec.Descriptor, error) {
	var found ocispec.Descriptor
	for _, n := range im.names {
		if !strings.HasPrefix(n.target.Digest.Encoded(), hex) || n.target.Digest == found.Digest {
			continue
		}
		if found.Digest != "" {
			return ocispec.Descriptor{}, withKind(errdefs.ErrInvalidArgument,
				"multiple IDs found with provided prefix: %s", hex)
		}
		found = n.target
	}
	return found, nil
}

func isHex(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// fillNames sets what depends on the names of an image.
func (im *Images) fillNames(img *Image) {
	im.mu.Lock()
	defer im.mu.Unlock()
	img.RepoTags, img.RepoDigests = []string{}, []string{}
	img.Pinned = im.names[danglingPrefix+img.ID].pinned
	for _, name := range im.namesOfLocked(img.Target.Digest) {
		n := im.names[name]
		if n.updated.After(img.Tagged) {
			img.Tagged = n.updated
		}
		img.Pinned = img.Pinned || n.pinned
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue
		}
		if _, ok := ref.(reference.Tagged); ok {
			img.RepoTags = append(img.RepoTags, reference.FamiliarString(ref))
		}
		d := reference.FamiliarName(ref) + "@" + img.ID
		if !slices.Contains(img.RepoDigests, d) {
			img.RepoDigests = append(img.RepoDigests, d)
		}
	}
}

// List returns every image, the newest first.
func (im *Images) List(ctx context.Context) ([]Image, error) {
	targets := im.targets()
	out := make([]Image, 0, len(targets))
	users := map[digest.Digest]int{}
	var parts []map[digest.Digest]int64
	for _, t := range targets {
		img, err := im.load(ctx, t, "")
		if err != nil {
			if errdefs.IsNotFound(err) && !im.exists(t.Digest) {
				continue // removed meanwhile
			}
			// One broken image must not hide the others.
			img = &Image{ID: t.Digest.String(), Target: t, Manifest: t, Size: t.Size}
			im.fillNames(img)
		}
		consists := im.holds(ctx, img)
		for d := range consists {
			users[d]++
		}
		parts = append(parts, consists)
		out = append(out, *img)
	}
	for i := range out {
		for d, size := range parts[i] {
			if users[d] > 1 && !strings.HasPrefix(d.String(), treePrefix) { // which Size does not count either
				out[i].SharedSize += size
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Image) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// targets lists what names lead to, each once.
func (im *Images) targets() []ocispec.Descriptor {
	im.mu.Lock()
	defer im.mu.Unlock()
	seen := map[digest.Digest]ocispec.Descriptor{}
	for _, n := range im.names {
		seen[n.target.Digest] = n.target
	}
	out := make([]ocispec.Descriptor, 0, len(seen))
	for _, t := range seen {
		out = append(out, t)
	}
	return out
}

func (im *Images) exists(target digest.Digest) bool {
	return slices.ContainsFunc(im.targets(), func(t ocispec.Descriptor) bool { return t.Digest == target })
}

// Count is the number of images.
func (im *Images) Count(context.Context) (int, error) { return len(im.targets()), nil }

// Tag gives an image one more name; another image that had it loses it.
func (im *Images) Tag(ctx context.Context, nameOrID, ref string) error {
	name, err := parseName(ref)
	if err != nil {
		return err
	}
	if _, ok := name.(reference.Digested); ok {
		return withKind(errdefs.ErrInvalidArgument, "refusing to create a tag with a digest reference")
	}
	im.hold.RLock()
	defer im.hold.RUnlock()
	target, _, err := im.find(nameOrID)
	if err != nil {
		return err
	}
	return im.apply(ctx, change{set: map[string]ocispec.Descriptor{name.String(): target}})
}
