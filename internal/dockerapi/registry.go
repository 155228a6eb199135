package dockerapi

import (
	"net/http"

	"github.com/berth-engine/berth/internal/image"
	api "github.com/moby/moby/api/types/registry"
)

// auth asks a registry whether it accepts credentials. They are the client's to keep; here they are forgotten.
func (s *Server) auth(c *call) error {
	var config api.AuthConfig
	if err := c.decode(&config); err != nil {
		return err
	}
	domain, err := image.RegistryOf(config.ServerAddress)
	if err != nil {
		return err
	}
	if config.Username == "" && config.IdentityToken == "" && config.RegistryToken == "" {
		return invalid("no credentials were given to log in to %q with", domain)
	}
	err = s.engine.Images.Login(c.ctx(), domain, &image.Auth{
		Username: config.Username, Password: config.Password,
		IdentityToken: config.IdentityToken, RegistryToken: config.RegistryToken,
	})
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, api.AuthResponse{Status: "Login Succeeded"})
}

// distribution tells what a name leads to at its registry.
func (s *Server) distribution(c *call) error {
	auth, err := authOf(c.r.Header.Get("X-Registry-Auth"))
	if err != nil {
		return err
	}
	found, err := s.engine.Images.Remote(c.ctx(), c.name(), auth)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, api.DistributionInspect{Descriptor: found.Target, Platforms: found.Platforms})
}
