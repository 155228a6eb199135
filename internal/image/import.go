package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	kgzip "github.com/klauspost/compress/gzip"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-engine/berth/internal/store"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Import makes an image of one layer from a tar archive of a root directory, plain or compressed by gzip, zstd or
// bzip2. The changes are instructions as in a Dockerfile; ref may be "" for an image without a name, and platform for
// this machine's.
func (im *Images) Import(ctx context.Context, ref string, r io.Reader, changes []string, message, platform string) (*Image,
	error) {
	p := ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if platform != "" {
		var err error
		if p, err = platforms.Parse(platform); err != nil {
			return nil, withKind(errdefs.ErrInvalidArgument, "invalid platform %q", platform)
		}
		if p = platforms.Normalize(p); p.OS != "linux" {
			return nil, withKind(errdefs.ErrInvalidArgument, "operating system %q is not supported: images run on Linux", p.OS)
		}
	}
	var names []string
	if ref != "" {
		name, err := parseName(ref)
		if err != nil {
			return nil, err
		}
		if _, ok := name.(reference.Digested); ok {
			return nil, withKind(errdefs.ErrInvalidArgument, "cannot import digest reference")
		}
		if name.String() == builtinName {
			return nil, withKind(errdefs.ErrInvalidArgument, "%s is the name of the image that ships with Berth",
				familiar(builtinName))
		}
		names = append(names, name.String())
	}
	now := im.now().UTC()
	config := dockerspec.DockerOCIImage{Image: ocispec.Image{
		Created: &now, Platform: p,
		History: []ocispec.History{{Created: &now, Comment: message}},
	}}
	for _, c := range instructions(changes) {
		if err := applyChange(&config.Config, c); err != nil {
			return nil, err
		}
	}
	defer trim()
	return im.single(ctx, r, config, names...)
}

// single makes an image of one layer. A compressed stream is kept as it is, so that its digest stays; a plain one is
// compressed.
func (im *Images) single(ctx context.Context, r io.Reader, config dockerspec.DockerOCIImage, names ...string) (*Image,
	error) {
	ctx, release, err := im.store.Lease(ctx)
	if err != nil {
		return nil, err
	}
	target, err := im.singleLeased(ctx, r, config)
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

func (im *Images) singleLeased(ctx context.Context, r io.Reader,
	config dockerspec.DockerOCIImage) (target ocispec.Descriptor, err error) {
	st, err := im.store.Stage(ctx)
	if err != nil {
		return target, err
	}
	layer, diff, err := im.storeLayer(ctx, r, st, true)
	if err != nil {
		st.Abort(ctx)
		return target, err
	}
	if err := st.Commit(ctx, diff, ""); err != nil {
		return target, err
	}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff}}
	return im.write(ctx, config, []ocispec.Descriptor{layer})
}

// write stores a configuration and the manifest that binds it to layers which are in the store.
func (im *Images) write(ctx context.Context, config dockerspec.DockerOCIImage,
	layers []ocispec.Descriptor) (target ocispec.Descriptor, err error) {
	data, err := json.Marshal(config)
	if err != nil {
		return target, err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(data),
		Size: int64(len(data))}
	if err := im.put(ctx, desc, data, configLabels(chainOf(config.RootFS.DiffIDs))); err != nil {
		return target, err
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: desc,
		Layers: layers,
	}
	if data, err = json.Marshal(manifest); err != nil {
		return target, err
	}
	target = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data),
		Size: int64(len(data))}
	return target, im.put(ctx, target, data, manifestLabels(&document{Config: &desc, Layers: layers}))
}

// storeLayer keeps a stream as a blob and unpacks it into st, at once. Bottom says that no layer is below.
func (im *Images) storeLayer(ctx context.Context, r io.Reader, st *store.Staged, bottom bool) (layer ocispec.Descriptor,
	diff digest.Digest, err error) {
	b := bufio.NewReaderSize(&cancelled{ctx, r}, pumpBuffer)
	head, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return layer, "", fmt.Errorf("read the archive: %w", err)
	}
	ref := "import-" + st.Name()
	w, err := content.OpenWriter(ctx, im.store.Content(), content.WithRef(ref))
	if err != nil {
		return layer, "", err
	}
	defer func() {
		if err != nil {
			_ = w.Close()
			_ = im.store.Content().Abort(context.WithoutCancel(ctx), ref)
		}
	}()
	if err := w.Truncate(0); err != nil {
		return layer, "", err
	}
	layer.MediaType = ocispec.MediaTypeImageLayerGzip
	var out io.WriteCloser = nopCloser{w}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		layer.MediaType = ocispec.MediaTypeImageLayerZstd
	default:
		if z, ok, err := plain(b, head); err != nil {
			return layer, "", err
		} else if ok {
			b = z
		}
		if out, err = kgzip.NewWriterLevel(w, gzip.BestSpeed); err != nil {
			return layer, "", err
		}
	}
	x := im.startExtraction(ctx, st, bottom)
	_, err = feed(b, out, x, func(int64) {})
	if err == nil {
		err = out.Close()
	}
	if diff, err = x.result(err); err != nil {
		return layer, "", err
	}
	status, err := w.Status()
	if err != nil {
		return layer, "", err
	}
	layer.Digest, layer.Size = w.Digest(), status.Offset
	if err := w.Commit(ctx, layer.Size, layer.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return layer, "", err
	}
	return layer, diff, w.Close()
}

// plain returns what a stream holds that is compressed in a way that layers are not, and false if it is not compressed.
func plain(b *bufio.Reader, head []byte) (*bufio.Reader, bool, error) {
	if !bytes.HasPrefix(head, []byte("BZh")) && !bytes.HasPrefix(head, []byte{0xfd, '7', 'z'}) {
		return b, false, nil
	}
	z, err := decompress(b)
	if err != nil {
		return nil, false, err
	}
	return bufio.NewReaderSize(z, pumpBuffer), true, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// cancelled is a reader that ends with its context, for sources that know of none. A Read under way is not interrupted.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
