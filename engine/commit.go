package engine

import (
	"context"
	"fmt"
	"io"

	"github.com/berth-engine/berth/internal/archive"
	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/image"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Commit makes an image of a container's image and of what the container changed in its files, without volumes and
// mounts. Parent, Chain and Platform of the options are filled in here. With pause, the processes of a running container
// stand still while its files are read. A container that does not run cannot be started meanwhile.
func (e *Engine) Commit(ctx context.Context, ref string, o image.CommitOptions, pause bool) (*image.Image, error) {
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return nil, err
	}
	if rec.State.Alive() {
		l.release()
	} else {
		defer l.release()
		if err := l.settled(ctx); err != nil {
			return nil, err
		}
	}
	o.Parent, o.Chain, o.Platform = rec.Config.ImageID, rec.Chain, rec.Config.Platform
	img, err := e.Images.Commit(ctx, o, func(w io.Writer) error {
		if pause && rec.State.Status == container.Running {
			if err := e.Pause(ctx, rec.ID); err == nil {
				// It may have been ended or woken by somebody else then.
				defer func() { _ = e.Unpause(context.WithoutCancel(ctx), rec.ID) }()
			} else if !errdefs.IsConflict(err) { // it is: paused or ended since
				return err
			}
		}
		if o.Squash {
			return e.packWhole(ctx, rec, w)
		}
		return e.packLayer(ctx, rec, w)
	})
	if err != nil {
		return nil, err
	}
	e.publish(rec, "commit", map[string]string{"comment": o.Comment, "imageID": img.ID, "imageRef": o.Ref})
	return img, nil
}

// packWhole writes all of a container's file system as the archive of a layer.
func (e *Engine) packWhole(ctx context.Context, rec container.Record, w io.Writer) error {
	dir, err := e.mountToRead(ctx, rec)
	if err != nil {
		return err
	}
	root := confine.FromFile(dir)
	defer root.Close()
	if err := archive.Pack(ctx, root, "/", w, archive.PackOptions{Contents: true}); err != nil {
		return err
	}
	_, err = e.Containers.Get(rec.ID) // as in packLayer
	return err
}

// packLayer writes what a container has changed as the archive of a layer.
func (e *Engine) packLayer(ctx context.Context, rec container.Record, w io.Writer) error {
	all, err := e.store.Changes(ctx, rec.ID, digest.Digest(rec.Chain))
	if err != nil {
		return err
	}
	skip := map[string]bool{}
	for _, c := range all {
		skip[c.Path] = true
	}
	for _, c := range withoutMountPoints(all, rec) {
		delete(skip, c.Path)
	}
	if err := e.store.PackLayer(ctx, rec.ID, all, w, func(path string) bool { return skip[path] }); err != nil {
		return fmt.Errorf("container %q: %w", rec.Name, err)
	}
	// Had it been removed meanwhile, a part of it would be missing.
	_, err = e.Containers.Get(rec.ID)
	return err
}
