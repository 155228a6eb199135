package dockerapi

import (
	"context"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/build"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"
)

// containerUsage adds up what containers have written into their layers.
func (s *Server) containerUsage(_ *call, u *diskUsage, verbose bool) error {
	sum := &api.DiskUsage{}
	u.ContainerUsage = sum
	u.containers = []api.Summary{}
	now := time.Now()
	for _, rec := range s.engine.Containers.List() {
		line := s.summary(rec, now)
		line.SizeRw = s.engine.LayerSize(rec)
		line.SizeRootFs = line.SizeRw
		sum.TotalCount++
		sum.TotalSize += line.SizeRw
		if rec.State.Alive() {
			sum.ActiveCount++
		} else {
			sum.Reclaimable += line.SizeRw
		}
		u.containers = append(u.containers, *line)
	}
	if verbose {
		sum.Items = u.containers
	}
	return nil
}

// imageUsage adds up images; layers that several share count once in the total.
func (s *Server) imageUsage(c *call, u *diskUsage, verbose bool) error {
	sum := &image.DiskUsage{}
	u.ImageUsage = sum
	u.images = []image.Summary{}
	list, err := s.imageSummaries(c.ctx(), true)
	if err != nil {
		return err
	}
	if u.layers, err = s.engine.Images.Usage(c.ctx()); err != nil {
		return err
	}
	active := map[string]bool{}
	for i := range list {
		sum.TotalCount++
		if list[i].Containers > 0 {
			sum.ActiveCount++
			active[list[i].ID] = true
		}
		u.images = append(u.images, list[i].Summary)
	}
	used, err := s.engine.Images.UsedBy(c.ctx(), func(id string) bool { return active[id] })
	if err != nil {
		return err
	}
	sum.TotalSize = u.layers
	sum.Reclaimable = max(0, u.layers-used)
	if verbose {
		sum.Items = u.images
	}
	return nil
}

// volumeUsage adds up volumes.
func (s *Server) volumeUsage(c *call, u *diskUsage, verbose bool) error {
	sum := &volume.DiskUsage{}
	u.VolumeUsage = sum
	u.volumes = []volume.Volume{}
	for _, v := range s.engine.Volumes.List() {
		line := volumeOf(v)
		size := treeSize(c.ctx(), v.Mountpoint)
		refs := int64(len(s.engine.Volumes.Holders(v.Name)))
		line.UsageData = &volume.UsageData{RefCount: refs, Size: size}
		sum.TotalCount++
		sum.TotalSize += size
		if refs > 0 {
			sum.ActiveCount++
		} else {
			sum.Reclaimable += size
		}
		u.volumes = append(u.volumes, line)
	}
	if verbose {
		sum.Items = u.volumes
	}
	return nil
}

// buildUsage is nothing, as there is no builder.
func buildUsage(_ *call, u *diskUsage, _ bool) error {
	u.BuildCacheUsage = &build.DiskUsage{}
	return nil
}

// treeSize is the sum of the sizes of the files below dir, hard links counted once. It follows no link and reads no
// content, so a hostile tree can at most make the figure wrong.
func treeSize(ctx context.Context, dir string) int64 {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil {
			return nil // gone, or not for us: it does not count
		}
		fi, err := d.Info()
		if err != nil {
			return nil
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 && !fi.IsDir() {
			id := inode{st.Dev, st.Ino}
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		if fi.Mode().IsRegular() {
			sum += fi.Size()
		}
		return nil
	})
	return sum
}
