package dockerapi

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/berth-engine/berth/internal/image"
	"github.com/opencontainers/go-digest"
)

func (c *call) listOptions() (o image.ListOptions, err error) {
	o.Insecure, o.Content = c.flag("insecure"), c.flag("content")
	if o.Auth, err = authOf(c.r.Header.Get("X-Registry-Auth")); err != nil {
		return o, err
	}
	o.Auths, err = authsOf(c.r.Header.Get("X-Registry-Config"))
	return o, err
}

// manifestsLook tells what a name leads to at its registry.
func (s *Server) manifestsLook(c *call) error {
	o, err := c.listOptions()
	if err != nil {
		return err
	}
	found, err := s.engine.Images.Look(c.ctx(), c.name(), o)
	if err != nil {
		return err
	}
	out := berthapi.Manifests{MediaType: found.Target.MediaType, List: found.List, Manifests: []berthapi.Manifest{}}
	for _, p := range found.Parts {
		out.Manifests = append(out.Manifests, berthapi.Manifest(p))
	}
	return c.writeJSON(http.StatusOK, &out)
}

// manifestsPush pushes a manifest list.
func (s *Server) manifestsPush(c *call) error {
	o, err := c.listOptions()
	if err != nil {
		return err
	}
	var list berthapi.ManifestList
	if err := c.decode(&list); err != nil {
		return err
	}
	sources := map[digest.Digest]string{}
	for _, m := range list.Sources {
		sources[m.Descriptor.Digest] = m.Ref
	}
	copied, index, err := s.engine.Images.PushList(c.ctx(), c.name(), list.Raw, list.MediaType, sources, o)
	if err != nil {
		return err
	}
	out := berthapi.PushedList{Digest: index.String(), Copied: []string{}}
	for _, d := range copied {
		out.Copied = append(out.Copied, d.String())
	}
	return c.writeJSON(http.StatusOK, &out)
}

// authsOf reads credentials for several registries: as authOf, but an object of them, by what the client keeps them under.
func authsOf(header string) (map[string]*image.Auth, error) {
	if header == "" {
		return nil, nil
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(header, "="))
	if err != nil {
		return nil, invalid("the header X-Registry-Config is not base64")
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, invalid("the header X-Registry-Config is no JSON object")
	}
	out := map[string]*image.Auth{}
	for server, text := range raw {
		domain, err := image.RegistryOf(server)
		if err != nil {
			return nil, err
		}
		if out[domain], err = authOf(base64.RawURLEncoding.EncodeToString(text)); err != nil {
			return nil, err
		}
	}
	return out, nil
}
