package engine

import (
	"context"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/image"
)

// PlanImages tells of every image whether and why it is kept, and which would go if images were collected now.
func (e *Engine) PlanImages(ctx context.Context) (*image.Plan, error) {
	return e.Images.Plan(ctx, e.imageUsers)
}

// CollectImages removes images that nothing uses, the longest unused first, until the disk is at the low water mark.
func (e *Engine) CollectImages(ctx context.Context) (*image.Plan, error) {
	return e.collectImages(ctx, true)
}

func (e *Engine) collectImages(ctx context.Context, asked bool) (*image.Plan, error) {
	plan, gone, err := e.Images.Collect(ctx, asked, e.imageUsers)
	for _, r := range gone {
		for action, name := range map[string]string{"untag": r.Untagged, "delete": r.Deleted} {
			if name != "" {
				e.Events.Publish(Event{Type: "image", Action: action, ActorID: name, Attributes: map[string]string{"name": name}})
			}
		}
	}
	return plan, err
}

// grown is told that images may take more of the disk than before.
func (e *Engine) grown() {
	if !e.Images.Collects() {
		return
	}
	e.background(func() {
		plan, err := e.collectImages(e.ctx, false)
		if err != nil {
			if e.ctx.Err() == nil {
				e.log.Error("collect images", "error", err)
			}
			return
		}
		for _, c := range plan.Images {
			if c.Taken {
				e.log.Info("image collected, as the disk was fuller than image-gc-high", "image", c.ID, "names", c.RepoTags, "used", c.Used)
			}
		}
		if plan.Over {
			e.log.Warn("the disk is fuller than image-gc-high, and no image is left that may be collected", "free", plan.Free)
		}
	})
}

// imageUsers lists the names of the containers made of an image or standing on its layers.
func (e *Engine) imageUsers(imageID string) []string {
	var names []string
	for _, rec := range e.Containers.List() {
		if rec.Config.ImageID == imageID && rec.State.Status != container.Dead {
			names = append(names, rec.Name)
		}
	}
	return names
}
