package dockerapi

import (
	"net/http"
	"strconv"

	api "github.com/moby/moby/api/types/registry"
)

// imageSearch asks a registry for repositories.
func (s *Server) imageSearch(c *call) error {
	f, err := parseFilters(c.text("filters"), "is-automated", "is-official", "stars")
	if err != nil {
		return err
	}
	official, err := f.boolean("is-official", false)
	if err != nil {
		return err
	}
	automated, err := f.boolean("is-automated", false)
	if err != nil {
		return err
	}
	stars := 0
	for _, text := range f["stars"] {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return invalid("invalid filter 'stars=%s'", text)
		}
		stars = max(stars, n)
	}
	limit := 0
	if text := c.text("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil {
			return invalid("invalid limit %q: it is a number", text)
		}
	}
	if c.text("term") == "" {
		return invalid("no term to search for was given")
	}
	auth, err := authOf(c.r.Header.Get("X-Registry-Auth"))
	if err != nil {
		return err
	}
	found, err := s.engine.Images.Search(c.ctx(), c.text("term"), limit, auth)
	if err != nil {
		return err
	}
	out := []api.SearchResult{}
	for _, r := range found {
		// Nothing is built automatically any more, which Docker's API says too.
		if r.Stars < stars || f.has("is-official") && r.Official != official || f.has("is-automated") && automated {
			continue
		}
		out = append(out, api.SearchResult{Name: r.Name, Description: r.Description, StarCount: r.Stars, IsOfficial: r.Official})
	}
	return c.writeJSON(http.StatusOK, out)
}
