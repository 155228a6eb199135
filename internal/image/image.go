package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-engine/berth/internal/registry"
	"github.com/berth-engine/berth/internal/store"
)

const (
	// danglingPrefix begins the names of images that have no other.
	danglingPrefix = "dangling@"

	// maxCached is how many images are kept parsed in memory.
	maxCached = 64
)

// Options are the settings of Images. The zero value will do.
type Options struct {
	Registry registry.Options
	// Parallel is how many layers are fetched and unpacked at once by all pulls together; default 4.
	Parallel int
	// Policy says when images are collected unasked; the zero value says never.
	Policy Policy
	// Grown is told whenever images may take more of the disk; it must not block. May be nil.
	Grown func()
	// Now is the clock, for tests.
	Now func() time.Time
}

// Auth are the credentials for one pull.
type Auth = registry.Auth

// Image is one image, for one platform.
type Image struct {
	ID          string   // "sha256:…", the digest of Target
	RepoTags    []string // "busybox:latest", in the short form
	RepoDigests []string // "busybox@sha256:…"
	Created     time.Time
	Tagged      time.Time // when one of its names was given last
	Size        int64     // bytes on the disk: blobs and unpacked layers
	SharedSize  int64     // bytes of them that other images use too; set by List only
	Pinned      bool      // it is neither collected nor pruned

	Config ocispec.Image
	Docker dockerspec.DockerOCIImageConfigExt // what Docker has in a configuration besides
	Chain  digest.Digest                      // the topmost layer in the store
	Layers []digest.Digest                    // digests of the uncompressed layers, the bottom one first

	OS, Architecture, Variant string
	Comment                   string // of the last step of its history

	// Artifact is the type of what is no image but something else that registries keep, "" for an image. Such a thing has
	// no configuration and no chain; it is pulled, tagged, saved, pushed and removed as it is.
	Artifact string

	Target   ocispec.Descriptor // what the name leads to: an index or a manifest
	Manifest ocispec.Descriptor // of this platform

	blobs int64                // bytes of Target, Manifest, configuration and layers
	parts []ocispec.Descriptor // these, each once
}

// Health is the image's health check, nil if it has none.
func (i *Image) Health() *dockerspec.HealthcheckConfig { return i.Docker.Healthcheck }

// OnBuild is what the image asks builders to do first.
func (i *Image) OnBuild() []string { return i.Docker.OnBuild }

// Shell is the shell of commands in shell form.
func (i *Image) Shell() []string { return i.Docker.Shell }

// named is what a name leads to.
type named struct {
	target           ocispec.Descriptor
	created, updated time.Time
	pinned           bool
}

// Images is the set of all images. Its methods may be called from any goroutine.
type Images struct {
	store    *store.Store
	registry *registry.Client
	now      func() time.Time
	disk     func() (size, free int64, err error) // of the file system that images lie on
	slots    chan struct{}                        // layers being worked on
	loads    chan struct{}                        // archives being loaded
	policy   Policy
	grown    func()

	extracting atomic.Int32 // layers being unpacked

	collecting sync.Mutex // one collection at a time; comes before hold

	// hold is held for reading while a container is made of an image, and for writing while names and what depends on
	// them are taken away. It comes before mu.
	hold sync.RWMutex

	mu     sync.Mutex
	names  map[string]named // all names of the database, also the hidden ones
	cached map[cacheKey]*Image
	used   map[string]time.Time // image ID → last use, as far as it was seen by this process
}

type cacheKey struct {
	target   digest.Digest
	platform string
}

// Open reads the names.
func Open(s *store.Store, o Options) (*Images, error) {
	if err := o.Policy.Check(); err != nil {
		return nil, err
	}
	client, err := registry.New(o.Registry)
	if err != nil {
		return nil, err
	}
	// Else containerd's reader of archives has a program that it finds in the path decompress each layer, to see that it begins.
	for _, name := range []string{"CONTAINERD_DISABLE_IGZIP", "CONTAINERD_DISABLE_PIGZ"} {
		if err := os.Setenv(name, "1"); err != nil {
			return nil, err
		}
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Grown == nil {
		o.Grown = func() {}
	}
	im := &Images{
		policy: o.Policy, grown: o.Grown, used: map[string]time.Time{},
		store: s, registry: client, now: o.Now, disk: s.Disk, slots: make(chan struct{}, o.Parallel), loads: make(chan struct{}, 1),
		names: map[string]named{}, cached: map[cacheKey]*Image{},
	}
	list, err := s.Names().List(s.Context(context.Background()))
	if err != nil {
		return nil, fmt.Errorf("read the names of images: %w", err)
	}
	for _, i := range list {
		im.names[i.Name] = named{i.Target, i.CreatedAt, i.UpdatedAt, i.Labels[pinLabel] != ""}
	}
	if s.Lost() {
		if err := im.repair(context.Background()); err != nil {
			return nil, err
		}
	}
	return im, nil
}

// Hold keeps every image that Resolve gives from being removed until release is called. It is for the moment between
// looking for an image and making the record of a container that stands on it, and must be short.
func (im *Images) Hold() (release func()) {
	im.hold.RLock()
	return im.hold.RUnlock
}

// namesOf lists the names of a target, sorted, without the hidden ones.
func (im *Images) namesOf(target digest.Digest) []string {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.namesOfLocked(target)
}

func (im *Images) namesOfLocked(target digest.Digest) []string {
	var out []string
	for name, n := range im.names {
		if n.target.Digest == target && !strings.HasPrefix(name, danglingPrefix) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// change is a set of changes of names that happen together.
type change struct {
	set    map[string]ocispec.Descriptor
	remove []string
}

// apply makes a change in the database, in one commit, and then in memory. A target that loses its last name to
// another one gets a hidden name; one that is named again loses it.
func (im *Images) apply(ctx context.Context, c change) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	next := map[string]named{}
	now := im.now().UTC()
	for name, target := range c.set {
		target = ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
		n := named{target, now, now, false}
		old, ok := im.names[name]
		if ok {
			n.created, n.pinned = old.created, old.pinned
		}
		next[name] = n
		if ok && old.target.Digest != target.Digest && !im.keepsName(old.target.Digest, c) {
			next[danglingPrefix+old.target.Digest.String()] = named{old.target, now, now, false}
		}
		if hidden := danglingPrefix + target.Digest.String(); hidden != name {
			c.remove = append(c.remove, hidden)
		}
	}
	err := im.store.Update(im.store.Context(ctx), func(ctx context.Context) error {
		names := im.store.Names()
		for name, n := range next {
			i := images.Image{Name: name, Target: n.target}
			_, err := names.Update(ctx, i, "target")
			if errdefs.IsNotFound(err) {
				_, err = names.Create(ctx, i)
			}
			if err != nil {
				return fmt.Errorf("name %q: %w", name, err)
			}
		}
		for _, name := range c.remove {
			if _, set := next[name]; set {
				continue
			}
			if err := names.Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("remove name %q: %w", name, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range c.remove {
		delete(im.names, name)
	}
	for name, n := range next {
		im.names[name] = n
	}
	return nil
}

// keepsName tells whether a target has a name that c does not take from it.
func (im *Images) keepsName(target digest.Digest, c change) bool {
	for _, name := range im.namesOfLocked(target) {
		if other, moved := c.set[name]; (!moved || other.Digest == target) && !slices.Contains(c.remove, name) {
			return true
		}
	}
	for _, other := range c.set {
		if other.Digest == target {
			return true
		}
	}
	return false
}

// forget drops what is cached of images, all if the target is "".
func (im *Images) forget(target digest.Digest) {
	im.mu.Lock()
	defer im.mu.Unlock()
	for k := range im.cached {
		if target == "" || k.target == target {
			delete(im.cached, k)
		}
	}
}

// parseName reads a reference as people write it and completes it: "busybox" is docker.io/library/busybox:latest.
func parseName(name string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, badReference(name, err)
	}
	return reference.TagNameOnly(ref), nil
}

// badReference says what is wrong with a reference, in Docker's words where it has some.
func badReference(name string, err error) error {
	_, lower := reference.ParseNormalizedNamed(strings.ToLower(name))
	if lower == nil || errors.Is(err, reference.ErrNameContainsUppercase) {
		return withKind(errdefs.ErrInvalidArgument, "invalid reference format: repository name (%s) must be lowercase", name)
	}
	return withKind(errdefs.ErrInvalidArgument, "invalid reference format: %q", name)
}

// familiar is the short form of a name of the database.
func familiar(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(ref)
}
