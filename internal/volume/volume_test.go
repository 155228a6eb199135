package volume

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func open(t *testing.T, root string) *Volumes {
	t.Helper()
	v, damaged, err := Open(root)
	if err != nil || len(damaged) > 0 {
		t.Fatal(err, damaged)
	}
	return v
}

func TestAVolumeOutlivesTheDaemonWithItsContent(t *testing.T) {
	root, ctx := t.TempDir(), context.Background()
	v := open(t, root)
	vol, err := v.Create(ctx, Spec{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(vol.Mountpoint, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := open(t, root).Get("data")
	if err != nil || again.Mountpoint != vol.Mountpoint || again.Labels["a"] != "b" {
		t.Fatalf("%+v, %v", again, err)
	}
	same, err := v.Create(ctx, Spec{Name: "data"})
	if err != nil || !same.Created.Equal(vol.Created) {
		t.Errorf("creating it again: %+v, %v", same, err)
	}
}

func TestAVolumeInUseStays(t *testing.T) {
	ctx := context.Background()
	v := open(t, t.TempDir())
	vol, err := v.Create(ctx, Spec{})
	if err != nil || !vol.Anonymous || len(vol.Name) != 64 {
		t.Fatal(vol, err)
	}
	if err := v.Claim(vol.Name, "c1"); err != nil {
		t.Fatal(err)
	}
	if err := v.Remove(ctx, vol.Name, true); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "volume is in use - [c1]") {
		t.Errorf("removing a volume in use: %v", err)
	}
	if gone, err := v.Prune(ctx, func(Volume) bool { return true }); err != nil || len(gone) != 0 {
		t.Error("pruned a volume in use:", gone, err)
	}
	v.Release("c1")
	if gone, err := v.Prune(ctx, func(Volume) bool { return true }); err != nil || len(gone) != 1 {
		t.Error(gone, err)
	}
	if _, err := os.Stat(vol.Mountpoint); !os.IsNotExist(err) {
		t.Error("the content of a removed volume is still there")
	}
}

func TestBadVolumes(t *testing.T) {
	ctx := context.Background()
	v := open(t, t.TempDir())
	for _, s := range []Spec{
		{Name: "../x"}, {Name: "a/b"}, {Name: "."}, {Name: ".."}, {Name: "-a"}, {Name: "a"}, {Name: strings.Repeat("v", 256)},
		{Name: "ok", Options: map[string]string{"size": "1"}},
		{Name: "ok", Options: map[string]string{"device": "/dev/x"}},
		{Name: "ok", Options: map[string]string{"type": "nfs"}},
	} {
		if _, err := v.Create(ctx, s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if _, err := v.Create(ctx, Spec{Name: "ok", Driver: "rexray"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := v.Create(ctx, Spec{Name: "ok", Options: map[string]string{"type": "tmpfs", "device": "tmpfs"}}); err != nil {
		t.Error(err)
	}
	if _, err := v.Create(ctx, Spec{Name: "ok", Options: map[string]string{"type": "nfs", "device": "x"}}); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	if err := v.Remove(ctx, "none", false); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := v.Remove(ctx, "none", true); err != nil {
		t.Error(err)
	}
}

func TestTheContentIsClosedToOtherUsers(t *testing.T) {
	root := filepath.Join(t.TempDir(), "volumes")
	vol, err := open(t, root).Create(context.Background(), Spec{Name: "data"})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{root, filepath.Dir(vol.Mountpoint)} {
		fi, err := os.Stat(dir)
		if err != nil || fi.Mode().Perm() != 0o701 {
			t.Errorf("%s has mode %v, %v", dir, fi.Mode(), err)
		}
	}
}

func TestAMadeUpNameIsLabelled(t *testing.T) {
	root, ctx := t.TempDir(), context.Background()
	v, given := open(t, root), map[string]string{"a": "b"}
	vol, err := v.Create(ctx, Spec{Labels: given})
	if err != nil {
		t.Fatal(err)
	}
	again, err := open(t, root).Get(vol.Name)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "b", AnonymousLabel: ""}
	if !maps.Equal(vol.Labels, want) || !maps.Equal(again.Labels, want) {
		t.Errorf("labels are %v, read again %v", vol.Labels, again.Labels)
	}
	if len(given) != 1 {
		t.Errorf("the caller's labels became %v", given)
	}
	named, err := v.Create(ctx, Spec{Name: "named"})
	if err != nil || len(named.Labels) != 0 {
		t.Errorf("a named volume has labels %v, %v", named.Labels, err)
	}
}

func TestWhatWasMadeForNobodyIsSwept(t *testing.T) {
	root, ctx := t.TempDir(), context.Background()
	v := open(t, root)
	made := map[string]string{}
	for _, holder := range []string{"settled", "saved", "lost"} {
		vol, err := v.Create(ctx, Spec{Holder: holder})
		if err != nil {
			t.Fatal(err)
		}
		made[vol.Name] = holder
	}
	if err := v.Settle(ctx, "settled", true); err != nil {
		t.Fatal(err)
	}
	v = open(t, root) // the daemon was killed
	if err := v.Sweep(ctx, func(holder string) bool { return holder == "saved" }); err != nil {
		t.Fatal(err)
	}
	left := open(t, root).List()
	if len(left) != 2 {
		t.Error(left)
	}
	for _, vol := range left {
		if made[vol.Name] == "lost" || vol.Pending != "" {
			t.Errorf("%+v of %s", vol, made[vol.Name])
		}
	}
}

func TestAFillingThatFailsLeavesNothing(t *testing.T) {
	ctx := context.Background()
	v := open(t, t.TempDir())
	if _, err := v.Create(ctx, Spec{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []error{os.ErrPermission, nil} {
		err := v.Fill(ctx, "data", func(dir string) error {
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Error(left, err)
			}
			return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o600), want)
		})
		if !errors.Is(err, want) {
			t.Error(err)
		}
	}
	if err := v.Fill(ctx, "data", func(string) error { t.Error("filled twice"); return nil }); err != nil {
		t.Error(err)
	}
}
