package dockerapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/image"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/auxprogress"
	api "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
)

func (s *Server) imageList(c *call) error {
	f, err := parseFilters(c.text("filters"), "before", "dangling", "label", "label!", "reference", "since", "until")
	if err != nil {
		return err
	}
	summaries, err := s.imageSummaries(c.ctx(), c.flag("shared-size"))
	if err != nil {
		return err
	}
	match, err := s.imageFilter(c, f)
	if err != nil {
		return err
	}
	out := []any{}
	manifests := c.flag("manifests")
	for i := range summaries {
		if !match(&summaries[i]) {
			continue
		}
		if manifests {
			if summaries[i].Manifests, err = s.manifestsOf(c.ctx(), summaries[i].img); err != nil {
				return err
			}
		}
		out = append(out, downgradeImage(&summaries[i].Summary, c.version))
	}
	return c.writeJSON(http.StatusOK, out)
}

// imageSummary is a line of the list with what the filters look at besides.
type imageSummary struct {
	api.Summary
	img *image.Image
}

// imageSummaries is every image, the newest first, with the number of containers that use it.
func (s *Server) imageSummaries(ctx context.Context, shared bool) ([]imageSummary, error) {
	images, err := s.engine.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]int64{}
	for _, rec := range s.engine.Containers.List() {
		used[rec.Config.ImageID]++
	}
	out := make([]imageSummary, 0, len(images))
	for i := range images {
		line := imageSummary{summaryOf(&images[i], used[images[i].ID]), &images[i]}
		if shared {
			line.SharedSize = images[i].SharedSize
		}
		out = append(out, line)
	}
	return out, nil
}

func summaryOf(img *image.Image, containers int64) api.Summary {
	out := api.Summary{
		ID: img.ID, RepoTags: list(img.RepoTags), RepoDigests: list(img.RepoDigests), Created: img.Created.Unix(),
		Size: img.Size, SharedSize: -1, Labels: img.Config.Config.Labels, Containers: containers, Descriptor: &img.Target,
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if img.Created.IsZero() {
		out.Created = 0
	}
	return out
}

// imageFilter turns the filters of a listing into a question about one image.
func (s *Server) imageFilter(c *call, f filters) (func(*imageSummary) bool, error) {
	dangling, err := f.boolean("dangling", false)
	if err != nil {
		return nil, err
	}
	// Of several moments the narrowest counts, as if each were asked for.
	var before, since time.Time
	earlier := func(t time.Time) {
		if before.IsZero() || t.Before(before) {
			before = t
		}
	}
	for _, text := range f["until"] {
		t, err := moment(text, time.Now())
		if err != nil {
			return nil, err
		}
		earlier(t)
	}
	for _, key := range []string{"before", "since"} {
		for _, ref := range f[key] {
			img, err := s.engine.Images.Resolve(c.ctx(), ref, "")
			switch {
			case err != nil:
				return nil, err
			case key == "before":
				earlier(img.Created)
			case img.Created.After(since):
				since = img.Created
			}
		}
	}
	for _, pattern := range f["reference"] {
		if _, err := reference.FamiliarMatch(pattern, mustRef("busybox")); err != nil {
			return nil, invalid("invalid filter 'reference=%s': %w", pattern, err)
		}
	}
	return func(i *imageSummary) bool {
		switch {
		case f.has("dangling") && (len(i.RepoTags) == 0) != dangling,
			!before.IsZero() && (i.img.Created.IsZero() || !i.img.Created.Before(before)),
			!since.IsZero() && !i.img.Created.After(since),
			!f.pairs("label", i.Labels), !f.pairs("label!", i.Labels):
			return false
		}
		return !f.has("reference") || matchReference(f["reference"], i)
	}, nil
}

func mustRef(name string) reference.Named {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		panic(err) // a constant of this package
	}
	return ref
}

// matchReference keeps of the image's names those that match, as Docker's list shows them.
func matchReference(patterns []string, i *imageSummary) bool {
	keep := func(names []string) []string {
		out := []string{}
		for _, name := range names {
			ref, err := reference.ParseNormalizedNamed(name)
			if err != nil {
				continue
			}
			for _, p := range patterns {
				if ok, err := reference.FamiliarMatch(p, ref); err == nil && ok {
					out = append(out, name)
					break
				}
			}
		}
		return out
	}
	tags, digests := keep(i.RepoTags), keep(i.RepoDigests)
	i.RepoTags, i.RepoDigests = tags, digests
	return len(tags)+len(digests) > 0
}

func (s *Server) imageInspect(c *call) error {
	platform, err := platformJSON(c.text("platform"))
	if err != nil {
		return err
	}
	if platform != "" && c.flag("manifests") {
		return invalid("conflicting options: manifests and platform options cannot both be set")
	}
	img, err := s.engine.Images.Resolve(c.ctx(), c.name(), platform)
	if err != nil {
		return err
	}
	r := &api.InspectResponse{
		ID: img.ID, RepoTags: list(img.RepoTags), RepoDigests: list(img.RepoDigests), Author: img.Config.Author,
		Architecture: img.Config.Architecture, Variant: img.Config.Variant,
		Os: img.Config.OS, OsVersion: img.Config.OSVersion,
		Size: img.Size, RootFS: api.RootFS{Type: "layers", Layers: []string{}},
		Config:  &dockerspec.DockerOCIImageConfig{ImageConfig: img.Config.Config, DockerOCIImageConfigExt: img.Docker},
		Comment: img.Comment, Metadata: api.Metadata{LastTagTime: img.Tagged}, Descriptor: &img.Target,
	}
	if c.flag("manifests") {
		if r.Manifests, err = s.manifestsOf(c.ctx(), img); err != nil {
			return err
		}
	}
	if !img.Created.IsZero() {
		r.Created = img.Created.UTC().Format(time.RFC3339Nano)
	}
	for _, d := range img.Config.RootFS.DiffIDs {
		r.RootFS.Layers = append(r.RootFS.Layers, d.String())
	}
	return c.writeJSON(http.StatusOK, downgradeImageInspect(r, c.version))
}

// manifestsOf describes what an image's index lists, or its only manifest, with the containers on each.
func (s *Server) manifestsOf(ctx context.Context, img *image.Image) ([]api.ManifestSummary, error) {
	parts, err := s.engine.Images.Parts(ctx, img.ID)
	if errdefs.IsNotFound(err) {
		return nil, nil // removed meanwhile
	}
	if err != nil {
		return nil, err
	}
	users := s.chainUsers(img.ID)
	out := []api.ManifestSummary{}
	for _, p := range parts {
		m := api.ManifestSummary{ID: p.Manifest.Digest.String(), Descriptor: p.Manifest, Available: p.Available,
			Kind: api.ManifestKind(p.Kind)}
		m.Size.Content, m.Size.Total = p.Content, p.Content+p.Unpacked
		switch p.Kind {
		case image.PartImage:
			m.ImageData = &api.ImageProperties{Platform: p.Platform, Containers: list(users[p.Chain.String()])}
			m.ImageData.Size.Unpacked = p.Unpacked
		case image.PartAttestation:
			m.AttestationData = &api.AttestationProperties{For: p.For}
		}
		out = append(out, m)
	}
	return out, nil
}

// chainUsers are the containers of an image, by the layers they stand on.
func (s *Server) chainUsers(imageID string) map[string][]string {
	users := map[string][]string{}
	for _, rec := range s.engine.Containers.List() {
		if rec.Config.ImageID == imageID {
			users[rec.Chain] = append(users[rec.Chain], rec.ID)
		}
	}
	return users
}

func (s *Server) imageHistory(c *call) error {
	platform, err := platformJSON(c.text("platform"))
	if err != nil {
		return err
	}
	items, err := s.engine.Images.History(c.ctx(), c.name(), platform)
	if err != nil {
		return err
	}
	out := []api.HistoryResponseItem{}
	for _, h := range items {
		out = append(out, api.HistoryResponseItem{
			ID: h.ID, Created: h.Created.Unix(), CreatedBy: h.CreatedBy, Tags: h.Tags, Size: h.Size, Comment: h.Comment,
		})
	}
	return c.writeJSON(http.StatusOK, out)
}

// imageAttestations lists the statements that are attached to an image for a platform.
func (s *Server) imageAttestations(c *call) error {
	platform, err := platformJSON(c.text("platform"))
	if err != nil {
		return err
	}
	whole := c.flag("statement")
	found, err := s.engine.Images.Attestations(c.ctx(), c.name(), platform, c.r.Form["type"], whole)
	if err != nil {
		return err
	}
	out := []api.AttestationStatement{}
	for i, a := range found {
		line := api.AttestationStatement{Descriptor: a.Descriptor, PredicateType: a.Predicate}
		if whole {
			line.Statement = &found[i].Statement
		}
		out = append(out, line)
	}
	return c.writeJSON(http.StatusOK, out)
}

func (s *Server) imageTag(c *call) error {
	ref, err := repoTag(c.text("repo"), c.text("tag"))
	if err != nil {
		return err
	}
	if ref == "" {
		return invalid("repository name must have at least one component")
	}
	img, err := s.engine.Images.Resolve(c.ctx(), c.name(), "")
	if err != nil {
		return err
	}
	if err := s.engine.Images.Tag(c.lasting(), img.ID, ref); err != nil {
		return err
	}
	s.publish("image", "tag", img.ID, map[string]string{"name": ref})
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// repoTag joins a repository and a tag into a reference, "" for none.
func repoTag(repo, tag string) (string, error) {
	if repo == "" {
		return "", nil
	}
	ref, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return "", invalid("%w", err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return "", invalid("cannot import digest reference")
	}
	if tag != "" {
		if ref, err = reference.WithTag(reference.TrimNamed(ref), tag); err != nil {
			return "", invalid("%w", err)
		}
	}
	return reference.TagNameOnly(ref).String(), nil
}

func (s *Server) imageRemove(c *call) error {
	if strings.TrimSpace(c.name()) == "" {
		return invalid("image name cannot be blank")
	}
	platforms, err := c.platformsJSON("platforms")
	if err != nil {
		return err
	}
	if len(platforms) > 0 {
		img, err := s.engine.Images.Resolve(c.ctx(), c.name(), "")
		if err != nil {
			return err
		}
		removed, err := s.engine.Images.RemovePlatforms(c.lasting(), c.name(), platforms, func(chain string) []string {
			return s.chainUsers(img.ID)[chain]
		})
		if err != nil {
			return err
		}
		return c.writeJSON(http.StatusOK, s.removedImages(removed))
	}
	removed, err := s.engine.Images.Remove(c.lasting(), c.name(), image.RemoveOptions{
		Force: c.flag("force"), NoPrune: c.flag("noprune"), InUse: s.imageUsers, Running: s.isRunning,
	})
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, s.removedImages(removed))
}

// removedImages shows and publishes what was removed.
func (s *Server) removedImages(removed []image.Removed) []api.DeleteResponse {
	out := []api.DeleteResponse{}
	for _, r := range removed {
		out = append(out, api.DeleteResponse{Untagged: r.Untagged, Deleted: r.Deleted})
		if r.Untagged != "" {
			s.publish("image", "untag", r.Untagged, map[string]string{"name": r.Untagged})
		}
		if r.Deleted != "" {
			s.publish("image", "delete", r.Deleted, map[string]string{"name": r.Deleted})
		}
	}
	return out
}

func (s *Server) imagePrune(c *call) error {
	f, err := parseFilters(c.text("filters"), "dangling", "label", "label!", "until")
	if err != nil {
		return err
	}
	dangling, err := f.boolean("dangling", true)
	if err != nil {
		return err
	}
	until, err := untilFilter(f)
	if err != nil {
		return err
	}
	report, err := s.engine.Images.Prune(c.lasting(), image.PruneOptions{
		InUse: s.imageUsers,
		// Neither a label nor a time of making is known of these.
		Unfinished: until.IsZero() && !f.has("label") && !f.has("label!"),
		Choose: func(i image.Image) bool {
			return (!dangling || len(i.RepoTags) == 0) && (until.IsZero() || i.Created.Before(until)) &&
				f.pairs("label", i.Config.Config.Labels) && f.pairs("label!", i.Config.Config.Labels)
		},
	})
	if err != nil {
		return err
	}
	s.publishPrune("image", report.Reclaimed)
	return c.writeJSON(http.StatusOK, api.PruneReport{
		ImagesDeleted: s.removedImages(report.Removed), SpaceReclaimed: uint64(report.Reclaimed),
	})
}

// progress writes Docker's progress lines. What fails after the first line is told in the stream, with a status of 200.
type progress struct {
	out *stream
}

func (p progress) line(m jsonstream.Message) { _ = p.out.encode(legacyProgress(m)) }

// fail ends a stream that has begun, or returns err for the status line.
func (p progress) fail(err error) error {
	if err == nil || !p.out.begun {
		return err
	}
	p.line(jsonstream.Message{Error: &jsonstream.Error{Message: err.Error()}})
	return nil
}

func (s *Server) imageCreate(c *call) error {
	if c.text("fromImage") != "" {
		return s.imagePull(c)
	}
	return s.imageImport(c)
}

func (s *Server) imagePull(c *call) error {
	name := strings.TrimSuffix(c.text("fromImage"), ":")
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return invalid("%w", err)
	}
	tag := c.text("tag")
	if tag != "" {
		if d, err := digest.Parse(tag); err == nil {
			ref, err = reference.WithDigest(reference.TrimNamed(ref), d)
			if err != nil {
				return invalid("%w", err)
			}
		} else if ref, err = reference.WithTag(reference.TrimNamed(ref), tag); err != nil {
			return invalid("%w", err)
		}
	}
	// The API has no word for "all tags": it is a name with neither tag nor digest.
	auth, err := authOf(c.r.Header.Get("X-Registry-Auth"))
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	p := progress{newStream(c.w)}
	_, err = s.engine.Images.Pull(c.ctx(), ref.String(), image.PullOptions{
		Platform: c.text("platform"), AllTags: reference.IsNameOnly(ref), Auth: auth,
		Progress: func(pr image.Progress) { p.line(progressLine(pr)) },
	})
	if err == nil {
		s.publish("image", "pull", reference.FamiliarString(ref), map[string]string{"name": reference.FamiliarName(ref)})
	}
	return p.fail(err)
}

func (s *Server) imagePush(c *call) error {
	ref, err := reference.ParseNormalizedNamed(c.name())
	if err != nil {
		return invalid("%w", err)
	}
	if tag := c.text("tag"); tag != "" {
		if ref, err = reference.WithTag(reference.TrimNamed(ref), tag); err != nil {
			return invalid("%w", err)
		}
	}
	platform, err := platformJSON(c.text("platform"))
	if err != nil {
		return err
	}
	auth, err := authOf(c.r.Header.Get("X-Registry-Auth"))
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	p := progress{newStream(c.w)}
	pushed, err := s.engine.Images.Push(c.ctx(), ref.String(), image.PushOptions{
		Platform: platform, AllTags: reference.IsNameOnly(ref), Auth: auth,
		Progress: func(pr image.Progress) { p.line(progressLine(pr)) },
	})
	for _, done := range pushed {
		if done.InsteadOf != nil {
			p.aux(auxprogress.ManifestPushedInsteadOfIndex{ManifestPushedInsteadOfIndex: true,
				OriginalIndex: *done.InsteadOf, SelectedManifest: done.Target})
		}
		p.aux(struct {
			Tag, Digest string
			Size        int64
		}{done.Tag, done.Target.Digest.String(), done.Target.Size})
	}
	if err == nil {
		s.publish("image", "push", reference.FamiliarString(ref), map[string]string{"name": reference.FamiliarName(ref)})
	}
	return p.fail(err)
}

// aux tells what a program wants to know.
func (p progress) aux(v any) {
	data, err := json.Marshal(v)
	if err != nil {
		return // of plain values there is none
	}
	raw := json.RawMessage(data)
	p.line(jsonstream.Message{Aux: &raw})
}

func progressLine(p image.Progress) jsonstream.Message {
	m := jsonstream.Message{ID: p.ID, Status: p.Status}
	if p.Current != 0 || p.Total != 0 {
		m.Progress = &jsonstream.Progress{Current: p.Current, Total: p.Total}
	}
	return m
}

// authOf reads the credentials that a client sends along: base64 of JSON, in the alphabet for URLs, padded or not. They
// are used for this pull only and never logged.
func authOf(header string) (*image.Auth, error) {
	if header == "" {
		return nil, nil
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(header, "="))
	if err != nil {
		return nil, nil // Docker pulls without credentials then, and old clients rely on it
	}
	var a struct {
		Username, Password, Auth, ServerAddress, IdentityToken, RegistryToken string
	}
	if json.Unmarshal(data, &a) != nil {
		return nil, nil
	}
	if a.Username == "" && a.Auth != "" {
		if plain, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			a.Username, a.Password, _ = strings.Cut(string(plain), ":")
		}
	}
	return &image.Auth{
		Username: a.Username, Password: a.Password, ServerAddress: a.ServerAddress,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	}, nil
}

func (s *Server) imageImport(c *call) error {
	src := c.text("fromSrc")
	if src == "" {
		return invalid("either fromImage or fromSrc must be given")
	}
	ref, err := repoTag(c.text("repo"), c.text("tag"))
	if err != nil {
		return err
	}
	message := c.text("message")
	if message == "" {
		message = "Imported from " + withoutUser(src)
	}
	in, p := c.upload(), progress{newStream(c.w)}
	if src != "-" {
		web, err := s.engine.Images.Download(c.ctx(), src)
		if err != nil {
			return err
		}
		defer web.Close()
		in = web
		c.w.Header().Set("Content-Type", "application/json")
		p.line(jsonstream.Message{Status: "Downloading from " + withoutUser(src)})
	}
	img, err := s.engine.Images.Import(c.ctx(), ref, in, c.r.Form["changes"], message, c.text("platform"))
	if err != nil {
		return p.fail(err)
	}
	s.publish("image", "import", img.ID, map[string]string{"name": img.ID})
	c.w.Header().Set("Content-Type", "application/json")
	p.line(jsonstream.Message{Status: img.ID})
	return nil
}

func withoutUser(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "that address"
	}
	u.User = nil
	return u.String()
}

func (s *Server) imageLoad(c *call) error {
	var o image.LoadOptions
	var err error
	if o.Platforms, err = c.platformsJSON("platform"); err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	p := progress{newStream(c.w)}
	if !c.flagOr("quiet", true) {
		o.Progress = func(pr image.Progress) { p.line(progressLine(pr)) }
	}
	names, err := s.engine.Images.Load(c.ctx(), c.upload(), o)
	if err != nil {
		return p.fail(err)
	}
	for _, name := range names {
		word := "Loaded image: "
		if strings.HasPrefix(name, "sha256:") {
			word = "Loaded image ID: "
		}
		p.line(jsonstream.Message{Stream: word + name + "\n"})
		s.publish("image", "load", name, map[string]string{"name": name})
	}
	if !p.out.begun {
		c.w.WriteHeader(http.StatusOK)
	}
	return nil
}

func (s *Server) imageSave(c *call) error {
	names := c.r.Form["names"]
	if c.name() != "" {
		names = []string{c.name()}
	}
	if len(names) == 0 {
		return invalid("no image was named")
	}
	platforms, err := c.platformsJSON("platform")
	if err != nil {
		return err
	}
	return c.download("application/x-tar", func(ctx context.Context, w *stream) error {
		return s.engine.Images.Save(ctx, w, names, platforms...)
	})
}

// imageUsers are the containers that stand on an image.
func (s *Server) imageUsers(imageID string) []string {
	var ids []string
	for _, rec := range s.engine.Containers.List() {
		if rec.Config.ImageID == imageID {
			ids = append(ids, rec.ID)
		}
	}
	return ids
}

// isRunning says whether the container with this ID has a process.
func (s *Server) isRunning(id string) bool {
	rec, err := s.engine.Containers.Get(id)
	return err == nil && rec.State.Alive()
}
