package image

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// builtinName is the reference of the image that ships with the program. No registry is asked for it.
const builtinName = "docker.io/berth/box:latest"

// builtinFiles holds rootfs.tar.gz if the build put it there: a tar archive, compressed by gzip or zstd, of a root
// directory with a userland of one program.
//
//go:embed all:builtin/files
var builtinFiles embed.FS

// isBuiltin tells whether a reference means the image that ships with the program.
func isBuiltin(name string) bool {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return false
	}
	if _, ok := ref.(reference.Digested); ok {
		return false
	}
	return reference.TagNameOnly(ref).String() == builtinName
}

// isOwn tells whether an image is the one that ships with the program, which is in the store.
func (im *Images) isOwn(d digest.Digest) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	n, there := im.names[builtinName]
	return there && n.target.Digest == d
}

// EnsureBuiltin puts the image that ships with the program into the store, if it is not there. It needs no network.
// Equal builds give an image of equal digest.
func (im *Images) EnsureBuiltin(ctx context.Context) error { return im.ensureBuiltin(ctx, false) }

// ensureBuiltin brings the image in once more when it has to be whole and lacks something.
func (im *Images) ensureBuiltin(ctx context.Context, whole bool) error {
	unlock, err := im.store.Lock(ctx, "builtin")
	if err != nil {
		return err
	}
	defer unlock()
	target, _, err := im.find(builtinName)
	if err == nil && (!whole || im.lacks(im.store.Context(ctx), target, top()) == "") {
		return nil
	}
	f, err := builtinFiles.Open("builtin/files/rootfs.tar.gz")
	if errors.Is(err, fs.ErrNotExist) {
		return withKind(errdefs.ErrNotFound,
			"No such image: %s: this program was built without the image that ships with it: "+
				"build it by \"make build\"", familiar(builtinName))
	}
	if err != nil {
		return fmt.Errorf("the image that ships with the program: %w", err)
	}
	defer f.Close()
	created := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	config := dockerspec.DockerOCIImage{Image: ocispec.Image{
		Created: &created, Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		History: []ocispec.History{{Created: &created, CreatedBy: "make build", Comment: "ships with Berth"}},
	}}
	config.Config.Cmd = []string{"/bin/sh"}
	config.Config.Env = []string{defaultPath}
	if _, err := im.single(ctx, f, config, builtinName); err != nil {
		return fmt.Errorf("the image that ships with the program: %w", err)
	}
	return nil
}

func (im *Images) pullBuiltin(ctx context.Context, say *reporter) (*Image, error) {
	_, _, err := im.find(builtinName)
	if err := im.ensureBuiltin(ctx, true); err != nil {
		return nil, err
	}
	img, lerr := im.Resolve(ctx, builtinName, "")
	if lerr != nil {
		return nil, lerr
	}
	say.say("", "Digest: "+img.ID)
	if err == nil {
		say.say("", "Status: Image is up to date for "+familiar(builtinName))
	} else {
		say.say("", "Status: Image ships with Berth: "+familiar(builtinName))
	}
	return img, nil
}
