package image

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// HistoryItem is one step in the making of an image.
type HistoryItem struct {
	ID        string // the image's for the newest step, "<missing>" for the others
	Created   time.Time
	CreatedBy string
	Tags      []string
	Size      int64 // bytes of the layer it made
	Comment   string
}

// History tells how an image was made, the newest step first. What its configuration claims need not be true; a history
// that does not fit the layers is shown as far as it goes.
func (im *Images) History(ctx context.Context, nameOrID, platform string) ([]HistoryItem, error) {
	img, err := im.Resolve(ctx, nameOrID, platform)
	if err != nil {
		return nil, err
	}
	usage, err := im.store.ChainUsage(ctx, img.Chain)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	sizes := map[digest.Digest]int64{}
	for _, u := range usage {
		sizes[u.Chain] = u.Size
	}
	var out []HistoryItem
	chains, layer := chainsOf(img.Layers), 0
	for _, h := range img.Config.History {
		item := HistoryItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			item.Created = *h.Created
		}
		if !h.EmptyLayer && layer < len(img.Layers) {
			item.Size = sizes[chains[layer]]
			layer++
		}
		out = append(out, item)
	}
	for ; layer < len(img.Layers); layer++ {
		out = append(out, HistoryItem{ID: "<missing>", Created: img.Created, Size: sizes[chains[layer]]})
	}
	slices.Reverse(out)
	if len(out) > 0 {
		out[0].ID, out[0].Tags = img.ID, img.RepoTags
	}
	return out, nil
}
