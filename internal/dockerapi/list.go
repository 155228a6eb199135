package dockerapi

import (
	"cmp"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/docker/go-units"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func (s *Server) containerList(c *call) error {
	f, err := parseFilters(c.text("filters"), "ancestor", "before", "exited", "expose", "health", "id", "is-task",
		"isolation", "label", "label!", "name", "network", "publish", "since", "status", "volume")
	if err != nil {
		return err
	}
	limit := 0
	if text := c.text("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil {
			return invalid("invalid value %q for parameter \"limit\": it must be a whole number", text)
		}
	}
	match, err := s.containerFilter(c, f)
	if err != nil {
		return err
	}
	all := c.flag("all") || limit > 0 || f.has("status") || f.has("before") || f.has("since") || f.has("exited")
	now := time.Now()
	out := []*api.Summary{}
	for _, rec := range s.engine.Containers.List() {
		if !all && !rec.State.Alive() && rec.State.Status != container.Restarting || !match(rec) {
			continue
		}
		summary := s.summary(rec, now)
		if c.flag("size") {
			if summary.SizeRw, summary.SizeRootFs, err = s.sizes(c, rec); err != nil {
				return err
			}
		}
		downgradeSummary(summary, c.version)
		out = append(out, summary)
		if limit > 0 && len(out) == limit {
			break
		}
	}
	return c.writeJSON(http.StatusOK, out)
}

// sizes are the bytes of a container's own layer, and of its whole root file system.
func (s *Server) sizes(c *call, rec container.Record) (rw, root int64, err error) {
	rw = s.engine.LayerSize(rec)
	root = rw
	if img, err := s.engine.Images.Resolve(c.ctx(), rec.Config.ImageID, ""); err == nil {
		root += img.Size
	}
	return rw, root, nil
}

// containerFilter turns the filters of a listing into a question about one record.
func (s *Server) containerFilter(c *call, f filters) (func(container.Record) bool, error) {
	var exited []int
	for _, text := range f["exited"] {
		code, err := strconv.Atoi(text)
		if err != nil {
			return nil, invalid("invalid filter 'exited=%s'", text)
		}
		exited = append(exited, code)
	}
	for _, status := range f["status"] {
		if err := api.ValidateContainerState(api.ContainerState(status)); err != nil {
			return nil, invalid("invalid filter 'status=%s': %w", status, err)
		}
	}
	for _, health := range f["health"] {
		if err := api.ValidateHealthStatus(api.HealthStatus(health)); err != nil {
			return nil, invalid("invalid filter 'health=%s': %w", health, err)
		}
	}
	task, err := f.boolean("is-task", false)
	if err != nil {
		return nil, err
	}
	isTaskGiven := f.has("is-task")
	var before, since time.Time
	for _, limit := range []struct {
		key string
		to  *time.Time
	}{{"before", &before}, {"since", &since}} {
		for _, ref := range f[limit.key] {
			rec, err := s.engine.Containers.Get(ref)
			if err != nil {
				return nil, err
			}
			*limit.to = rec.Created
		}
	}
	ports := map[string]map[string]bool{}
	for _, key := range []string{"publish", "expose"} {
		if ports[key], err = portFilter(f[key]); err != nil {
			return nil, err
		}
	}
	ancestors, err := s.ancestors(c, f["ancestor"])
	if err != nil {
		return nil, err
	}
	return func(rec container.Record) bool {
		switch {
		case isTaskGiven && task,
			!before.IsZero() && !rec.Created.Before(before),
			!since.IsZero() && !rec.Created.After(since),
			!matchName(f, rec), !matchID(f, rec),
			!f.pairs("label", rec.Config.Labels), !f.pairs("label!", rec.Config.Labels),
			!f.exact("status", string(rec.State.Status)),
			f.has("health") && !slices.Contains(f["health"], healthOf(rec)),
			len(exited) > 0 && (rec.State.Alive() || rec.State.FinishedAt.IsZero() ||
				!slices.Contains(exited, rec.State.ExitCode)),
			f.has("isolation") && !slices.Contains(f["isolation"], "default") && !slices.Contains(f["isolation"], ""),
			f.has("ancestor") && !ancestors[rec.Config.ImageID] && !ancestors[rec.Config.Image],
			f.has("volume") && !matchVolume(f, rec),
			f.has("network") && !matchNetwork(f, rec),
			f.has("publish") && !matchPublished(ports["publish"], rec),
			f.has("expose") && !matchExposed(ports["expose"], rec):
			return false
		}
		return true
	}, nil
}

func matchName(f filters, rec container.Record) bool {
	return f.fuzzy("name", rec.Name) || f.fuzzy("name", "/"+rec.Name)
}

func matchID(f filters, rec container.Record) bool {
	return matchPrefix(f, "id", rec.ID)
}

func healthOf(rec container.Record) string {
	if rec.State.Health == nil {
		return string(api.NoHealthcheck)
	}
	return rec.State.Health.Status
}

func matchVolume(f filters, rec container.Record) bool {
	for _, want := range f["volume"] {
		for _, v := range rec.Volumes {
			if v.Name == want || v.Target == want {
				return true
			}
		}
		for i := range rec.Config.Mounts {
			if m := &rec.Config.Mounts[i]; m.Source == want || m.Target == want {
				return true
			}
		}
	}
	return false
}

func matchNetwork(f filters, rec container.Record) bool {
	for _, want := range f["network"] {
		if want == "" {
			continue
		}
		if rec.Config.Net.Mode == want {
			return true
		}
		for i := range rec.Config.Net.Endpoints {
			if rec.Config.Net.Endpoints[i].Network == want {
				return true
			}
		}
		for i := range rec.Endpoints {
			if a := &rec.Endpoints[i]; a.Network == want || strings.HasPrefix(a.NetworkID, want) {
				return true
			}
		}
	}
	return false
}

// portFilter spreads "80", "8000-8010/tcp" into single ports.
func portFilter(values []string) (map[string]bool, error) {
	set := map[string]bool{}
	for _, v := range values {
		r, err := network.ParsePortRange(v)
		if err != nil {
			return nil, invalid("invalid filter: %w", err)
		}
		for p := range r.All() {
			set[p.String()] = true
		}
	}
	return set, nil
}

func matchPublished(set map[string]bool, rec container.Record) bool {
	return slices.ContainsFunc(rec.Published, func(p container.Published) bool {
		return set[strconv.Itoa(int(p.HostPort))+"/"+p.Proto]
	})
}

func matchExposed(set map[string]bool, rec container.Record) bool {
	return slices.ContainsFunc(rec.Config.Exposed, func(p string) bool { return set[p] })
}

// ancestors are the IDs of the images that descend from any of refs, and refs themselves.
func (s *Server) ancestors(c *call, refs []string) (map[string]bool, error) {
	ids := map[string]bool{}
	for _, ref := range refs {
		ids[ref] = true
		if img, err := s.engine.Images.Resolve(c.ctx(), ref, ""); err == nil {
			ids[img.ID] = true
		}
	}
	return ids, nil
}

// summary is one line of `docker ps`.
func (s *Server) summary(rec container.Record, now time.Time) *api.Summary {
	cfg := &rec.Config
	ns := s.networkSettingsOf(rec)
	out := &api.Summary{
		ID: rec.ID, Names: []string{"/" + rec.Name}, Image: cfg.Image, ImageID: cfg.ImageID,
		Command: commandLine(cfg.Process.Argv()), Created: rec.Created.Unix(), Ports: portSummaries(rec),
		Labels: cfg.Labels, State: api.ContainerState(rec.State.Status), Status: statusText(rec.State, now),
		NetworkSettings: &api.NetworkSettingsSummary{Networks: ns.Networks}, Mounts: s.mountPoints(rec),
		Health: &api.HealthSummary{Status: api.HealthStatus(healthOf(rec))},
	}
	if h := rec.State.Health; h != nil {
		out.Health.FailingStreak = h.Failing
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	for _, e := range ns.Networks { // names are the inspection's business
		e.DNSNames = nil
	}
	out.HostConfig.NetworkMode = cfg.Net.Mode
	out.HostConfig.Annotations = cfg.Extra.Annotations
	return out
}

// commandLine joins a command with blanks; arguments that hold one are quoted.
func commandLine(argv []string) string {
	parts := make([]string, len(argv))
	for i, a := range argv {
		if i > 0 && strings.ContainsRune(a, ' ') {
			a = "'" + a + "'"
		}
		parts[i] = a
	}
	return strings.Join(parts, " ")
}

// statusText is the sentence people read in `docker ps`, and scripts too.
func statusText(st container.State, now time.Time) string {
	ago := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch st.Status {
	case container.Running:
		if h := st.Health; h != nil {
			if h.Status == string(api.Starting) {
				return "Up " + ago(st.StartedAt) + " (health: starting)"
			}
			return "Up " + ago(st.StartedAt) + " (" + h.Status + ")"
		}
		return "Up " + ago(st.StartedAt)
	case container.Paused:
		return "Up " + ago(st.StartedAt) + " (Paused)"
	case container.Restarting:
		return "Restarting (" + strconv.Itoa(st.ExitCode) + ") " + ago(st.FinishedAt) + " ago"
	case container.Removing:
		return "Removal In Progress"
	case container.Dead:
		return "Dead"
	case container.Exited:
		return "Exited (" + strconv.Itoa(st.ExitCode) + ") " + ago(st.FinishedAt) + " ago"
	}
	return "Created"
}

func portSummaries(rec container.Record) []api.PortSummary {
	out := []api.PortSummary{}
	if !rec.State.Alive() || len(rec.Endpoints) == 0 {
		return out
	}
	open := map[string]bool{}
	for _, p := range rec.Published {
		ip, _ := netip.ParseAddr(p.HostIP)
		out = append(out, api.PortSummary{IP: ip, PrivatePort: p.Container, PublicPort: p.HostPort, Type: p.Proto})
		open[strconv.Itoa(int(p.Container))+"/"+p.Proto] = true
	}
	for _, text := range rec.Config.Exposed {
		if p, err := network.ParsePort(text); err == nil && !open[p.String()] {
			out = append(out, api.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
	}
	slices.SortFunc(out, func(a, b api.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.PublicPort, b.PublicPort),
			strings.Compare(a.Type, b.Type), a.IP.Compare(b.IP))
	})
	return out
}

// untilFilter is the moment before which things must have been made to be pruned; the zero time means any.
func untilFilter(f filters) (time.Time, error) {
	if len(f["until"]) == 0 {
		return time.Time{}, nil
	}
	if len(f["until"]) > 1 {
		return time.Time{}, invalid("more than one until filter specified")
	}
	return moment(f["until"][0], time.Now())
}
