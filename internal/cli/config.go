package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/registry"
)

// hubServer is the name Docker's configuration keeps the credentials of Docker Hub under.
const hubServer = "https://index.docker.io/v1/"

// configFile is Docker's client configuration, as far as it says something to this program. Fields it does not know
// are kept when it is written.
type configFile struct {
	path string
	all  map[string]json.RawMessage

	Auths          map[string]authEntry         `json:"auths"`
	HTTPHeaders    map[string]string            `json:"HttpHeaders"`
	CredsStore     string                       `json:"credsStore"`
	CredHelpers    map[string]string            `json:"credHelpers"`
	DetachKeys     string                       `json:"detachKeys"`
	PsFormat       string                       `json:"psFormat"`
	ImagesFormat   string                       `json:"imagesFormat"`
	NetworksFormat string                       `json:"networksFormat"`
	VolumesFormat  string                       `json:"volumesFormat"`
	StatsFormat    string                       `json:"statsFormat"`
	Proxies        map[string]map[string]string `json:"proxies"`
}

type authEntry struct {
	Auth          string `json:"auth,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

func (a *app) configDir() string {
	if a.global.configDir != "" {
		return a.global.configDir
	}
	if dir := a.env["DOCKER_CONFIG"]; dir != "" {
		return dir
	}
	home := a.env["HOME"]
	if home == "" {
		home = "/root"
	}
	return filepath.Join(home, ".docker")
}

// configFile reads the configuration once. A missing file is an empty one.
func (a *app) configFile() (*configFile, error) {
	if a.config != nil {
		return a.config, nil
	}
	c := &configFile{path: filepath.Join(a.configDir(), "config.json")}
	data, err := os.ReadFile(c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
	case err != nil:
		return nil, fmt.Errorf("reading the client's configuration: %w", err)
	default:
		if err := json.Unmarshal(data, c); err != nil {
			return nil, fmt.Errorf("the client's configuration %s is damaged: %w", c.path, err)
		}
		if err := json.Unmarshal(data, &c.all); err != nil {
			return nil, fmt.Errorf("the client's configuration %s is damaged: %w", c.path, err)
		}
	}
	a.config = c
	return c, nil
}

// credentials returns what is known of a registry, and the zero value where nothing is. server is a host, or
// hubServer.
func (c *configFile) credentials(server string) (registry.AuthConfig, error) {
	if helper := c.helper(server); helper != "" {
		return helperGet(helper, server)
	}
	for name, entry := range c.Auths {
		if name != server && registryHost(name) != registryHost(server) {
			continue
		}
		auth := registry.AuthConfig{ServerAddress: name, IdentityToken: entry.IdentityToken,
			RegistryToken: entry.RegistryToken}
		if entry.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(entry.Auth)
			if err != nil {
				return auth, fmt.Errorf("the credentials of %q in %s are damaged: %w", name, c.path, err)
			}
			user, password, ok := strings.Cut(string(plain), ":")
			if !ok || user == "" {
				return auth, fmt.Errorf("the credentials of %q in %s are damaged: no user and password", name, c.path)
			}
			auth.Username, auth.Password = user, strings.Trim(password, "\x00")
		}
		return auth, nil
	}
	return registry.AuthConfig{}, nil
}

// allCredentials returns the credentials of every registry the configuration names.
func (c *configFile) allCredentials() (map[string]registry.AuthConfig, error) {
	found := make(map[string]registry.AuthConfig)
	servers := make(map[string]bool)
	for name := range c.Auths {
		servers[name] = true
	}
	for name := range c.CredHelpers {
		servers[name] = true
	}
	if c.CredsStore != "" {
		listed := map[string]string{}
		if err := runHelper(c.CredsStore, "list", "", &listed); err != nil {
			return nil, err
		}
		for name := range listed {
			servers[name] = true
		}
	}
	for name := range servers {
		auth, err := c.credentials(name)
		if err != nil {
			return nil, err
		}
		if auth != (registry.AuthConfig{}) {
			found[name] = auth
		}
	}
	return found, nil
}

func (c *configFile) helper(server string) string {
	if h, ok := c.CredHelpers[registryHost(server)]; ok {
		return h
	}
	if h, ok := c.CredHelpers[server]; ok {
		return h
	}
	return c.CredsStore
}

// registryHost takes the host from what people write for a registry.
func registryHost(server string) string {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	host, _, _ := strings.Cut(server, "/")
	return host
}

// store keeps credentials, in the helper the configuration names or in the file.
func (c *configFile) store(server string, auth registry.AuthConfig) error {
	user, secret := auth.Username, auth.Password
	if auth.IdentityToken != "" {
		user, secret = "<token>", auth.IdentityToken
	}
	if helper := c.helper(server); helper != "" {
		in, err := json.Marshal(map[string]string{"ServerURL": server, "Username": user, "Secret": secret})
		if err != nil {
			return err
		}
		return runHelper(helper, "store", string(in), nil)
	}
	if c.Auths == nil {
		c.Auths = make(map[string]authEntry)
	}
	entry := authEntry{IdentityToken: auth.IdentityToken}
	plain := auth.Username + ":" + auth.Password
	if auth.IdentityToken != "" {
		plain = auth.Username + ":"
	}
	entry.Auth = base64.StdEncoding.EncodeToString([]byte(plain))
	c.Auths[server] = entry
	return c.save()
}

// erase forgets credentials, if there are any.
func (c *configFile) erase(server string) error {
	if helper := c.helper(server); helper != "" {
		if err := runHelper(helper, "erase", server, nil); !errors.Is(err, errNoCredentials) {
			return err
		}
		return nil
	}
	known := false
	for name := range c.Auths {
		if name == server || registryHost(name) == registryHost(server) {
			delete(c.Auths, name)
			known = true
		}
	}
	if !known {
		return nil
	}
	return c.save()
}

// save writes the file anew with the credentials changed and everything else as it was.
func (c *configFile) save() error {
	if c.all == nil {
		c.all = make(map[string]json.RawMessage)
	}
	auths, err := json.Marshal(c.Auths)
	if err != nil {
		return err
	}
	c.all["auths"] = auths
	data, err := json.MarshalIndent(c.all, "", "\t")
	if err != nil {
		return err
	}
	path := c.path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // people link it into a directory they keep elsewhere
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return writeFile(path, data)
}

// writeFile replaces a file in one step.
func writeFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(data); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func helperGet(helper, server string) (registry.AuthConfig, error) {
	var got struct{ ServerURL, Username, Secret string }
	err := runHelper(helper, "get", server, &got)
	if errors.Is(err, errNoCredentials) {
		return registry.AuthConfig{}, nil
	}
	auth := registry.AuthConfig{ServerAddress: server}
	if got.Username == "<token>" {
		auth.IdentityToken = got.Secret
	} else {
		auth.Username, auth.Password = got.Username, got.Secret
	}
	return auth, err
}

var errNoCredentials = errors.New("no credentials")

// runHelper speaks to a credential helper: a program docker-credential-NAME, which takes an action as its argument and
// its input on standard input, and answers with JSON. The input holds secrets; it never becomes part of an error.
func runHelper(helper, action, input string, out any) error {
	if strings.ContainsAny(helper, "/\\") {
		return fmt.Errorf("invalid name of a credential helper: %q", helper)
	}
	program := "docker-credential-" + helper
	cmd := exec.Command(program, action)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(stdout.String())
		// The protocol of docker-credential-helpers has this sentence and no status for "nothing known".
		if strings.Contains(text, "credentials not found in native keychain") {
			return errNoCredentials
		}
		if text == "" {
			text = strings.TrimSpace(stderr.String())
		}
		return fmt.Errorf("credential helper %s %s: %w: %s", program, action, err, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		return fmt.Errorf("credential helper %s %s gave no valid answer: %w", program, action, err)
	}
	return nil
}

// proxyEnv returns the variables the configuration wants in every container, unless set there already.
func (c *configFile) proxyEnv(host string, set []string) []string {
	proxy, ok := c.Proxies[host]
	if !ok {
		proxy = c.Proxies["default"]
	}
	var env []string
	for _, p := range [][2]string{{"httpProxy", "HTTP_PROXY"}, {"httpsProxy", "HTTPS_PROXY"}, {"noProxy", "NO_PROXY"},
		{"ftpProxy", "FTP_PROXY"}, {"allProxy", "ALL_PROXY"}} {
		value := proxy[p[0]]
		if value == "" {
			continue
		}
		for _, name := range []string{p[1], strings.ToLower(p[1])} {
			if !hasVariable(set, name) {
				env = append(env, name+"="+value)
			}
		}
	}
	return env
}

func hasVariable(env []string, name string) bool {
	for _, kv := range env {
		if k, _, _ := strings.Cut(kv, "="); k == name {
			return true
		}
	}
	return false
}
