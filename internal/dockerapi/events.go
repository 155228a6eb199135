package dockerapi

import (
	"context"
	"maps"
	"mime"
	"slices"
	"strings"
	"time"

	"github.com/berth-engine/berth/engine"
	api "github.com/moby/moby/api/types/events"
)

// eventMessage is one line of the events stream. The lower-case fields were for clients of before 1.22 and went with
// 1.52.
type eventMessage struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	api.Message
}

func (s *Server) events(c *call) error {
	now := time.Now()
	since, err := moment(c.text("since"), now)
	if err != nil {
		return err
	}
	until, err := moment(c.text("until"), now)
	if err != nil {
		return err
	}
	if !until.IsZero() && until.Before(since) {
		return invalid("`since` time (%s) cannot be after `until` time (%s)", c.text("since"), c.text("until"))
	}
	f, err := parseFilters(c.text("filters"), "config", "container", "daemon", "event", "image", "label", "label!",
		"network", "node", "plugin", "scope", "secret", "service", "type", "volume", "builder")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.ctx())
	defer cancel()
	past, live := s.engine.Events.Subscribe(ctx, since, until, eventFilter(f))

	media, sequence := eventsMedia(c)
	c.w.Header().Set("Content-Type", media)
	out := newStream(c.w)
	if err := out.begin(); err != nil {
		return nil
	}
	send := func(e engine.Event) error {
		if skipEvent(e, c.version) {
			return nil
		}
		if sequence {
			if _, err := out.Write([]byte{0x1e}); err != nil {
				return err
			}
		}
		return out.encode(eventOf(e, c.version))
	}
	for _, e := range past {
		if err := send(e); err != nil {
			return nil
		}
	}
	var end <-chan time.Time
	if !until.IsZero() {
		left := until.Sub(now)
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(left)
		defer timer.Stop()
		end = timer.C
	}
	for {
		select {
		case e, open := <-live:
			if !open || send(e) != nil {
				return nil
			}
		case <-end:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// eventsMedia is the media type of the stream, and whether each record begins with a record separator (RFC 7464).
func eventsMedia(c *call) (media string, sequence bool) {
	if c.version < 52 {
		return "application/json", false
	}
	for accept := range strings.SplitSeq(strings.Join(c.r.Header.Values("Accept"), ","), ",") {
		switch m, _, _ := mime.ParseMediaType(accept); m {
		case "application/json-seq":
			return m, true
		case "application/x-ndjson":
			return m, false
		case "application/jsonl":
			if c.version >= 53 {
				return m, false
			}
		}
	}
	return "application/json", false
}

func eventOf(e engine.Event, v version) eventMessage {
	m := eventMessage{Message: api.Message{
		Type: api.Type(e.Type), Action: api.Action(e.Action),
		Actor: api.Actor{ID: e.ActorID, Attributes: maps.Clone(e.Attributes)},
		Scope: "local", Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}}
	if m.Actor.Attributes == nil {
		m.Actor.Attributes = map[string]string{}
	}
	if v < 52 && (e.Type == "container" || e.Type == "image") {
		m.Status, m.ID = e.Action, e.ActorID
		if e.Type == "container" {
			m.From = e.Attributes["image"]
		}
	}
	return m
}

// skipEvent leaves out what older clients do not expect.
func skipEvent(e engine.Event, v version) bool {
	return v < 46 && e.Type == "image" && e.Action == "create"
}

// eventFilter says which events a subscriber wants. The object filters take an ID, a prefix of it or a name.
func eventFilter(f filters) func(engine.Event) bool {
	if len(f) == 0 {
		return nil
	}
	return func(e engine.Event) bool {
		if !f.exact("type", e.Type) || !f.exact("scope", "local") ||
			!f.pairs("label", e.Attributes) || !f.pairs("label!", e.Attributes) {
			return false
		}
		if f.has("event") {
			// "exec_start: sh" and "health_status: healthy" also match by what stands before the colon.
			short, _, _ := strings.Cut(e.Action, ":")
			if !slices.Contains(f["event"], e.Action) && !slices.Contains(f["event"], short) {
				return false
			}
		}
		for _, kind := range []string{
			"config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume",
		} {
			if f.has(kind) && (e.Type != kind || !isObject(f[kind], e.ActorID, e.Attributes["name"])) {
				return false
			}
		}
		return !f.has("image") || matchEventImage(f["image"], e)
	}
}

func isObject(wanted []string, id, name string) bool {
	return slices.ContainsFunc(wanted, func(w string) bool {
		return w == id || name != "" && strings.TrimPrefix(w, "/") == name || w != "" && strings.HasPrefix(id, w)
	})
}

// matchEventImage: an image is meant with or without its tag, and also as the image of a container.
func matchEventImage(wanted []string, e engine.Event) bool {
	names := []string{e.ActorID, e.Attributes["name"]}
	switch e.Type {
	case "image":
	case "container":
		names = []string{e.Attributes["image"]}
	default:
		return false
	}
	for _, n := range names {
		if n == "" {
			continue
		}
		bare := n
		if i := strings.LastIndexByte(n, ':'); i > strings.LastIndexByte(n, '/') {
			bare = n[:i]
		}
		if slices.Contains(wanted, n) || slices.Contains(wanted, bare) {
			return true
		}
	}
	return false
}
