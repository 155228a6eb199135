package dockerapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/registryd"
	"github.com/containerd/errdefs"
)

// Options are what the face needs to know besides the engine.
type Options struct {
	Engine   *engine.Engine
	Registry *registryd.Service
	Log      *slog.Logger
	// ExecRoot and DataRoot are the engine's, for the paths that inspect shows.
	ExecRoot, DataRoot string

	// Version, Commit and BuildTime are what `docker version` shows of the program.
	Version, Commit, BuildTime string
	// Facts answers what belongs to the daemon rather than to the engine. It must not block.
	Facts func() Facts
	// DefaultInit says whether a container whose creator did not say gets an init process.
	DefaultInit bool
	// MinVersion is the lowest API minor version to answer; 0 means 24.
	MinVersion int
}

// Facts are what `docker info` shows of the daemon's settings and of the machine, as they stand now.
type Facts struct {
	ID              string // the same for one data root for ever
	Debug           bool
	Labels          []string
	LogDriver       string
	RegistryMirrors []string
	Insecure        []string // registries reached without TLS, as configured
	AddressPools    []AddressPool
	HTTPProxy       string // without credentials
	HTTPSProxy      string
	NoProxy         string
	NoNewPrivs      bool
	Seccomp         string // "builtin", "unconfined" or the path of a profile
	RuntimePath     string

	Hostname, Kernel, OSName, OSVersion string
	Memory                              int64 // bytes
	CgroupVersion                       int
	Controllers                         map[string]bool
	SwapLimit, OOMKillDisable           bool
	Forwarding                          bool
	Warnings                            []string
}

// AddressPool is one of the ranges new networks are cut from.
type AddressPool struct {
	Base netip.Prefix
	Size int
}

// Server is the http.Handler of the Docker Engine API. It holds no state besides what it was made with.
type Server struct {
	engine *engine.Engine
	log    *slog.Logger
	o      Options
	min    version
	table  *router
}

// New makes the handler.
func New(o Options) *Server {
	s := &Server{engine: o.Engine, log: o.Log, o: o, min: version(o.MinVersion)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.min < MinVersion {
		s.min = MinVersion
	}
	if s.o.Facts == nil {
		s.o.Facts = func() Facts { return Facts{} }
	}
	s.table = newRouter(routes())
	return s
}

// call is one request on its way through a handler.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	version version
	vars    pathVars
	// taken says that the connection is no longer HTTP, so that no error can be answered any more.
	taken bool
}

// ctx ends when the client goes away.
func (c *call) ctx() context.Context { return c.r.Context() }

// lasting is for work that is carried through even if the client goes away.
func (c *call) lasting() context.Context { return context.WithoutCancel(c.r.Context()) }

// name is the {name} of the route.
func (c *call) name() string { return c.vars.name }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Server", "Berth/"+s.o.Version+" ("+runtime.GOOS+")")
	h.Set("Api-Version", MaxVersion.String())
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", runtime.GOOS)

	c := &call{w: w, r: r, version: MaxVersion}
	defer func() {
		// One request must not take down a daemon that other people's containers depend on.
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.Error("a request made the daemon panic", "method", r.Method, "path", r.URL.Path,
				"panic", p, "stack", string(debug.Stack()))
			if !c.taken {
				s.writeError(c, fmt.Errorf("the daemon failed on this request: %v", p))
			}
		}
	}()
	if err := s.serve(c); err != nil && !c.taken {
		s.writeError(c, err)
	}
}

func (s *Server) serve(c *call) error {
	path := c.r.URL.Path
	if rest, asked, ok := cutVersion(path); ok {
		if asked < s.min {
			return invalid("client version %s is too old. Minimum supported API version is %s, "+
				"please upgrade your client to a newer version", asked, s.min)
		}
		if asked > MaxVersion {
			return invalid("client version %s is too new. Maximum supported API version is %s", asked, MaxVersion)
		}
		c.version, path = asked, rest
	}
	if c.r.Method == http.MethodOptions {
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	rt, vars, found := s.table.match(c.r.Method, path)
	if !found || c.version < rt.since {
		return kindf(errdefs.ErrNotFound, "page not found")
	}
	c.vars = vars
	if _, err := parseQuery(c.r); err != nil {
		return err
	}
	return rt.handle(s, c)
}

// cutVersion splits "/v1.41/info" into "/info" and 41.
func cutVersion(path string) (rest string, v version, ok bool) {
	after, found := strings.CutPrefix(path, "/v")
	if !found {
		return path, 0, false
	}
	number, rest, found := strings.Cut(after, "/")
	if !found {
		return path, 0, false
	}
	if v, ok = parseVersion(number); !ok {
		return path, 0, false
	}
	return "/" + rest, v, true
}
