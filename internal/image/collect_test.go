package image

import (
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestMarks(t *testing.T) {
	for text, want := range map[string]int64{"85%": 5, "75%": 15, "99%": 0, "20B": 10, "5B": 0} {
		m, err := ParseMark(text)
		must(t, err)
		if got := m.above(100, 10); got != want {
			t.Errorf("%s of 100 bytes with 10 free: %d have to come free, want %d", text, got, want)
		}
	}
	for _, text := range []string{"", "0%", "100%", "x%", "-1GB", "0", "GB", "1.5%"} {
		if m, err := ParseMark(text); err == nil {
			t.Errorf("%q is taken for %v", text, m)
		}
	}
	for _, bad := range []Policy{{High: Mark{Percent: 80}}, {Low: Mark{Free: 1}},
		{High: Mark{Percent: 80}, Low: Mark{Percent: 81}}, {High: Mark{Free: 10}, Low: Mark{Free: 9}}} {
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	if err := (Policy{High: Mark{Percent: 80}, Low: Mark{Free: 9}}).Check(); err != nil {
		t.Error(err)
	}
}

// The longest unused go first and no more than needed; what is used, pinned or young stays.
func TestCollect(t *testing.T) {
	im := open(t)
	now := time.Now()
	im.now = func() time.Time { return now }
	ids := map[string]string{}
	base := rootTar(t, "base", string(noise(200<<10)))
	for i, name := range []string{"old", "pinned", "used", "busy", "young"} {
		now = now.Add(time.Duration(i) * time.Minute)
		f := serve(t, build(t, ocispec.Image{Author: name}, base, rootTar(t, name, string(noise(100<<10)))))
		img, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{})
		must(t, err)
		must(t, im.Tag(t.Context(), img.ID, name))
		ids[img.ID] = name
	}
	if _, _, err := im.Collect(t.Context(), true, noUsers); err == nil || !strings.Contains(err.Error(), "image-gc-high") {
		t.Errorf("collecting without marks: %v", err)
	}
	plan, err := im.Plan(t.Context(), noUsers)
	must(t, err)
	for _, c := range plan.Images {
		if c.Take || !strings.Contains(c.Keep, "no water marks") {
			t.Errorf("without marks: %+v", c)
		}
		// The layer they share is nobody's own; blob and unpacked layer are.
		if c.Unique < 200<<10 || c.Unique > 220<<10 || c.SharedSize < 400<<10 || c.Unique+c.SharedSize != c.Size {
			t.Errorf("%s: size %d, of its own %d, shared %d", ids[c.ID], c.Size, c.Unique, c.SharedSize)
		}
	}
	now = now.Add(time.Hour)
	if names, err := im.Pin(t.Context(), "pinned", true); err != nil || len(names) != 1 || names[0] != "pinned:latest" {
		t.Errorf("pin: %q, %v", names, err)
	}
	for _, wanted := range []string{"used", "young"} {
		for id, name := range ids {
			if name == wanted {
				im.Touch(id)
			}
		}
		if wanted == "used" {
			now = now.Add(30 * time.Minute)
		}
	}
	users := func(id string) []string {
		if ids[id] == "busy" {
			return []string{"web"}
		}
		return nil
	}
	// Others write to the disk meanwhile; what is planned is to depend on the images alone.
	size, free, err := im.store.Disk()
	must(t, err)
	im.disk = func() (int64, int64, error) { return size, free, nil }
	// One byte has to come free: the first goes, and no other.
	im.policy = Policy{High: Mark{Free: free + 1<<30}, Low: Mark{Free: free + 1}, MinAge: 10 * time.Minute}
	plan, err = im.Plan(t.Context(), users)
	must(t, err)
	var line []string
	for _, c := range plan.Images {
		text := ids[c.ID] + ":" + c.Keep
		if c.Take {
			text += "TAKE"
		}
		line = append(line, text)
	}
	want := "old:TAKE pinned:it is pinned busy:container web stands on it used: young:it was used less than 10 minutes ago"
	if got := strings.Join(line, " "); !plan.Over || got != want {
		t.Errorf("plan: %v %s\nwanted %s", plan.Over, got, want)
	}
	// More has to come free than all of them have: what may go goes.
	im.policy.Low = Mark{Free: free + 1<<40}
	im.policy.High = Mark{Free: free + 1<<39}
	report, gone, err := im.Collect(t.Context(), false, users)
	must(t, err)
	if !report.Over || report.Excess <= 0 || len(gone) == 0 {
		t.Errorf("%+v, %v", report, gone)
	}
	left, err := im.List(t.Context())
	must(t, err)
	var names []string
	for _, img := range left {
		names = append(names, ids[img.ID])
	}
	if len(names) != 3 {
		t.Errorf("left are %q", names)
	}
	for _, img := range left {
		if n := ids[img.ID]; n == "old" || n == "used" {
			t.Errorf("%s is left", n)
		}
	}
	// Prune leaves what is pinned, and a pin moves with its name.
	pruned, err := im.Prune(t.Context(), PruneOptions{Choose: func(Image) bool { return true }, InUse: users})
	must(t, err)
	if n, _ := im.Count(t.Context()); n != 2 || len(pruned.Removed) == 0 {
		t.Errorf("%d images after the prune", n)
	}
	for id, name := range ids {
		if name == "busy" {
			must(t, im.Tag(t.Context(), id, "pinned"))
			if img, err := im.Resolve(t.Context(), id, ""); err != nil || !img.Pinned {
				t.Errorf("the pin did not move: %v", err)
			}
			if names, err := im.Pin(t.Context(), id, false); err != nil || len(names) != 3 {
				t.Errorf("unpin by ID: %q, %v", names, err)
			}
			if img, err := im.Resolve(t.Context(), id, ""); err != nil || img.Pinned {
				t.Errorf("the pin is left: %v", err)
			}
		}
	}
}

func noUsers(string) []string { return nil }

// Pins and last uses are there again for the next process.
func TestPinsLast(t *testing.T) {
	root := t.TempDir()
	im := openAt(t, root)
	now := time.Now().Add(time.Hour).Truncate(time.Second)
	im.now = func() time.Time { return now }
	f := serve(t, build(t, ocispec.Image{}, rootTar(t, "f", "1")))
	img, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{})
	must(t, err)
	_, err = im.Pin(t.Context(), img.ID, true)
	must(t, err)
	now = now.Add(time.Hour)
	im.Touch(img.ID)
	must(t, im.store.Close())
	im = openAt(t, root)
	defer im.store.Close()
	plan, err := im.Plan(t.Context(), noUsers)
	must(t, err)
	if c := plan.Images[0]; !c.Pinned || c.Keep != "it is pinned" || !c.Used.Equal(now) {
		t.Errorf("%+v", c)
	}
}
