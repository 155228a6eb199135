package dockerapi

import (
	"net/http"
	"net/url"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/berth-engine/berth/internal/registryd"
)

// registryService tells how the daemon's registry is, starts it (POST) or stops it (DELETE).
func (s *Server) registryService(c *call) error {
	switch c.r.Method {
	case http.MethodPost:
		var set berthapi.RegistrySettings
		if err := c.decode(&set); err != nil {
			return err
		}
		if err := s.o.Registry.Start(c.ctx(), registryd.Settings(set)); err != nil {
			return err
		}
	case http.MethodDelete:
		if err := s.o.Registry.Stop(c.lasting()); err != nil {
			return err
		}
	}
	st := s.o.Registry.Status()
	out := berthapi.Registry{On: st.On, Running: st.Running, Fixed: st.Fixed, URL: st.URL, Pid: st.Pid, Since: st.Since,
		Settings: berthapi.RegistrySettings(st.Settings), Log: st.Log, Failure: st.Failure, Restarts: st.Restarts}
	if u, err := url.Parse(out.Settings.Mirror); err == nil && u.User != nil {
		u.User = nil
		out.Settings.Mirror = u.String()
	}
	return c.writeJSON(http.StatusOK, &out)
}
