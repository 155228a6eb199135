package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
)

const (
	// pinLabel marks the names of images that are never collected.
	pinLabel = "berth.pinned"

	// usedLabel is on the target of an image and says when a container of it was removed last.
	usedLabel = "berth.used"

	// treePrefix marks what an image was put together in, among what it holds.
	treePrefix = "tree "

	// usedEvery is how often that is written down.
	usedEvery = 10 * time.Minute
)

// Mark is a level of the file system that images lie on: how much of it may be used, or how much has to stay free.
type Mark struct {
	Percent int   // used, of all; 0 when Free counts
	Free    int64 // bytes
}

// ParseMark reads a mark: "85%" is a share of the file system that may be used, "20GB" are bytes that have to be free.
func ParseMark(text string) (Mark, error) {
	if share, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.Atoi(share)
		if err != nil || n < 1 || n > 99 {
			return Mark{}, fmt.Errorf("%q is not a share from 1%% to 99%%", text)
		}
		return Mark{Percent: n}, nil
	}
	n, err := units.FromHumanSize(text)
	if err != nil || n <= 0 {
		return Mark{}, fmt.Errorf("%q is neither a share of the disk that may be used (85%%) nor a size that has to be free (20GB)", text)
	}
	return Mark{Free: n}, nil
}

func (m Mark) String() string {
	switch {
	case m.Percent > 0:
		return fmt.Sprintf("%d%% used", m.Percent)
	case m.Free > 0:
		return units.HumanSize(float64(m.Free)) + " free"
	}
	return ""
}

// above is how many bytes have to come free until the mark is met; 0 if it is.
func (m Mark) above(size, free int64) int64 {
	want := m.Free
	if m.Percent > 0 {
		want = size - size/100*int64(m.Percent)
	}
	return max(0, want-free)
}

// Policy says when images are collected that nobody has asked to remove. The zero value says never.
type Policy struct {
	High   Mark          // collecting begins when the file system is fuller
	Low    Mark          // and ends when it is not fuller than this
	MinAge time.Duration // since the last use of what is collected
}

// Check refuses a policy that could not work.
func (p Policy) Check() error {
	switch {
	case p.High == (Mark{}) && p.Low == (Mark{}):
		return nil
	case p.High == (Mark{}) || p.Low == (Mark{}):
		return fmt.Errorf("image-gc-high and image-gc-low belong together: collecting begins at one and ends at the other")
	case p.High.Percent > 0 && p.Low.Percent > 0 && p.Low.Percent > p.High.Percent,
		p.High.Free > 0 && p.Low.Free > 0 && p.Low.Free < p.High.Free:
		return fmt.Errorf("image-gc-low (%s) is above image-gc-high (%s)", p.Low, p.High)
	}
	return nil
}

// Candidate is an image as the collector sees it.
type Candidate struct {
	Image
	Unique int64     // bytes that no other image has
	Used   time.Time // when it was last used, named or brought in
	Keep   string    // why it is not collected, a sentence's second half; "" when it may be
	Take   bool      // it goes when images are collected now
	Taken  bool      // it is gone
}

// Plan is what the collector would do now, or has done.
type Plan struct {
	Policy     Policy
	Size, Free int64 // bytes of the file system
	Over       bool  // it is fuller than the high mark
	Excess     int64 // bytes that have to come free until the low mark
	Freed      int64 // bytes that came free
	Images     []Candidate
}

// Plan tells of every image whether the collector may take it, and of the first of these, the longest unused, that it
// will: as many as are needed for the low mark. users lists the names of the containers made of an image.
func (im *Images) Plan(ctx context.Context, users func(imageID string) []string) (*Plan, error) {
	list, err := im.List(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Policy: im.policy}
	if p.Size, p.Free, err = im.disk(); err != nil {
		return nil, err
	}
	on := im.policy.High != Mark{}
	if on {
		p.Over = im.policy.High.above(p.Size, p.Free) > 0
		p.Excess = im.policy.Low.above(p.Size, p.Free)
	}
	count := map[digest.Digest]int{}
	parts := make([]map[digest.Digest]int64, len(list))
	for i := range list {
		parts[i] = im.holds(ctx, &list[i])
		for d := range parts[i] {
			count[d]++
		}
	}
	own := func(i int) (sum int64) {
		for d, size := range parts[i] {
			if count[d] == 1 {
				sum += size
			}
		}
		return sum
	}
	now := im.now()
	order := make([]int, len(list))
	for i := range list {
		c := Candidate{Image: list[i], Unique: own(i), Used: im.lastUse(ctx, &list[i])}
		switch names := users(c.ID); {
		case len(names) > 0:
			c.Keep = "container " + names[0] + " stands on it"
			if len(names) > 1 {
				c.Keep = fmt.Sprintf("%d containers stand on it, %s for one", len(names), names[0])
			}
		case c.Pinned:
			c.Keep = "it is pinned"
		case im.isOwn(c.Target.Digest):
			c.Keep = "it ships with Berth"
		case !on:
			c.Keep = "no water marks are set, so images are never collected unasked"
		case now.Sub(c.Used) < im.policy.MinAge:
			c.Keep = fmt.Sprintf("it was used less than %s ago", units.HumanDuration(im.policy.MinAge))
		}
		p.Images, order[i] = append(p.Images, c), i
	}
	slices.SortStableFunc(order, func(a, b int) int { return p.Images[a].Used.Compare(p.Images[b].Used) })
	left := p.Excess
	for _, i := range order {
		c := &p.Images[i]
		if c.Keep != "" || left <= 0 {
			continue
		}
		c.Take = true
		left -= own(i)
		for d := range parts[i] {
			count[d]--
		}
	}
	sorted := make([]Candidate, 0, len(order))
	for _, i := range order {
		sorted = append(sorted, p.Images[i])
	}
	p.Images = sorted
	return p, nil
}

// Collect removes what Plan says, one image at a time, until the file system is at the low mark. Unless asked, it begins
// only above the high mark. What a container, a pull or a build uses stays, also when it came into use meanwhile.
func (im *Images) Collect(ctx context.Context, asked bool, users func(imageID string) []string) (*Plan, []Removed, error) {
	if im.policy.High == (Mark{}) {
		return nil, nil, withKind(errdefs.ErrFailedPrecondition, "no water marks are set: give image-gc-high and image-gc-low in "+
			"daemon.json, or remove images by \"image prune\"")
	}
	im.collecting.Lock()
	defer im.collecting.Unlock()
	report, err := im.Plan(ctx, users)
	if err != nil || !asked && !report.Over {
		return report, nil, err
	}
	var gone []Removed
	begin := report.Free
	if report.Excess > 0 {
		// What interrupted pulls have left is worth less than any image.
		if err := im.store.DropKept(ctx); err != nil {
			return report, nil, err
		}
		if err := im.store.GC(context.WithoutCancel(ctx)); err != nil {
			return report, nil, err
		}
		if report.Size, report.Free, err = im.disk(); err != nil {
			return report, nil, err
		}
		report.Freed = max(0, report.Free-begin)
	}
	for i := range report.Images {
		c := &report.Images[i]
		if c.Keep != "" || im.policy.Low.above(report.Size, report.Free) == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return report, gone, context.Cause(ctx)
		}
		removed, err := im.remove(ctx, c.ID, &RemoveOptions{Force: true, InUse: users, Running: func(string) bool { return true }})
		if errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
			continue // removed, or in use since
		}
		if err != nil {
			return report, gone, err
		}
		c.Taken = true
		gone = append(gone, removed...)
		if err := im.store.GC(context.WithoutCancel(ctx)); err != nil {
			return report, gone, err
		}
		if report.Size, report.Free, err = im.disk(); err != nil {
			return report, gone, err
		}
		report.Freed = max(0, report.Free-begin)
	}
	report.Over = im.policy.High.above(report.Size, report.Free) > 0
	report.Excess = im.policy.Low.above(report.Size, report.Free)
	return report, gone, nil
}

// Collects tells whether images are ever collected unasked.
func (im *Images) Collects() bool { return im.policy.High != Mark{} }

// Touch notes that an image has just been used. It is written down soon after, and not each time.
func (im *Images) Touch(id string) {
	now := im.now().UTC()
	im.mu.Lock()
	recent := now.Sub(im.used[id]) < usedEvery
	if !recent {
		im.used[id] = now
	}
	im.mu.Unlock()
	if !recent {
		im.store.Label(digest.Digest(id), usedLabel, now.Format(time.RFC3339))
	}
}

// lastUse is when a container of the image was removed last, or when it came or got its newest name.
func (im *Images) lastUse(ctx context.Context, img *Image) time.Time {
	im.mu.Lock()
	last := im.used[img.ID]
	for _, n := range im.names { // hidden ones too
		if n.target.Digest == img.Target.Digest && n.updated.After(last) {
			last = n.updated
		}
	}
	im.mu.Unlock()
	if info, err := im.store.Content().Info(im.store.Context(ctx), img.Target.Digest); err == nil {
		if t, err := time.Parse(time.RFC3339, info.Labels[usedLabel]); err == nil && t.After(last) {
			last = t
		}
	}
	return last
}

// holds are the blobs and the unpacked layers of an image with the bytes they take.
func (im *Images) holds(ctx context.Context, img *Image) map[digest.Digest]int64 {
	out := map[digest.Digest]int64{}
	for _, b := range img.parts {
		out[b.Digest] = b.Size
	}
	usage, err := im.store.ChainUsage(ctx, img.Chain)
	if err != nil {
		return out
	}
	for _, u := range usage {
		// A chain may have the digest of a blob: the lowest one is the digest of its uncompressed layer.
		out["chain "+u.Chain] = u.Size
	}
	if n := im.store.TreeSize(ctx, img.Chain); n > 0 {
		out[treePrefix+img.Chain] = n
	}
	return out
}

// Pin protects an image from the collector and from Prune, or ends that. A pin belongs to the name by which it was
// given, and goes with it to another image; given by ID, all names of the image are pinned. It returns the names.
func (im *Images) Pin(ctx context.Context, nameOrID string, on bool) ([]string, error) {
	im.hold.RLock()
	defer im.hold.RUnlock()
	target, byName, err := im.find(nameOrID)
	if err != nil {
		return nil, err
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	var names []string
	if _, there := im.names[byName]; there {
		names = []string{byName}
	} else {
		for name, n := range im.names {
			if n.target.Digest == target.Digest {
				names = append(names, name)
			}
		}
		slices.Sort(names)
	}
	value := ""
	if on {
		value = "1"
	}
	err = im.store.Update(im.store.Context(ctx), func(ctx context.Context) error {
		for _, name := range names {
			_, err := im.store.Names().Update(ctx, images.Image{Name: name, Labels: map[string]string{pinLabel: value}}, "labels."+pinLabel)
			if err != nil {
				return fmt.Errorf("pin %q: %w", name, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	shown := make([]string, 0, len(names))
	for _, name := range names {
		n := im.names[name]
		n.pinned = on
		im.names[name] = n
		if hidden, ok := strings.CutPrefix(name, danglingPrefix); ok {
			shown = append(shown, hidden)
		} else {
			shown = append(shown, familiar(name))
		}
	}
	return shown, nil
}

// UsedBy adds up the bytes of the images that are chosen, each blob and layer once.
func (im *Images) UsedBy(ctx context.Context, choose func(imageID string) bool) (int64, error) {
	list, err := im.List(ctx)
	if err != nil {
		return 0, err
	}
	all := map[digest.Digest]int64{}
	for i := range list {
		if choose(list[i].ID) {
			maps.Copy(all, im.holds(ctx, &list[i]))
		}
	}
	var sum int64
	for _, size := range all {
		sum += size
	}
	return sum, nil
}
