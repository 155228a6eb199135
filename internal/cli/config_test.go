package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
)

// configDir makes a configuration directory, and helpers in the PATH.
func configDir(t *testing.T, config string, helpers map[string]string) string {
	dir := t.TempDir()
	if config != "" {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, script := range helpers {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return dir
}

// sentAuth pulls an image and returns the credentials the server got.
func sentAuth(t *testing.T, dir, image string) registry.AuthConfig {
	t.Helper()
	s := newFakeServer(t)
	s.handle("POST /images/create", func(http.ResponseWriter, *http.Request) {})
	if o := s.berth("", []string{"DOCKER_CONFIG=" + dir}, "pull", "-q", image); o.code != 0 {
		t.Fatalf("status %d, errors %q", o.code, o.err)
	}
	header := s.took("POST", "/images/create")[0].header.Get("X-Registry-Auth")
	auth, err := authconfig.Decode(header)
	if err != nil {
		t.Fatalf("%q: %v", header, err)
	}
	return *auth
}

const twoRegistries = `{"auths":{"https://index.docker.io/v1/":{"auth":"aHVidXNlcjpodWJwYXNz"},"r.example.com":{"auth":"dTpwOnA="}}}`

// Credentials go to the registry they belong to, and to no other (CVE-2021-41092).
func TestCredentialsGoToTheirOwnRegistry(t *testing.T) {
	dir := configDir(t, twoRegistries, nil)
	for image, want := range map[string]string{
		"busybox":                      "hubuser:hubpass",
		"docker.io/library/busybox":    "hubuser:hubpass",
		"r.example.com/x":              "u:p:p",
		"other.example.com/x":          ":",
		"evil.r.example.com/x":         ":",
		"r.example.com.evil.org/x":     ":",
		"localhost:5000/r.example.com": ":",
	} {
		auth := sentAuth(t, dir, image)
		if got := auth.Username + ":" + auth.Password; got != want {
			t.Errorf("%s: sent %q", image, got)
		}
	}
}

// A helper that is not there, or that fails, must not make the program fall back to another store or registry.
func TestAFailingCredentialHelperStopsThePull(t *testing.T) {
	dir := configDir(t, `{"credsStore":"nosuch","auths":{"https://index.docker.io/v1/":{"auth":"aHVidXNlcjpodWJwYXNz"}}}`,
		map[string]string{"broken": "echo the safe is locked; exit 1"})
	s := newFakeServer(t)
	for _, store := range []string{"nosuch", "broken", "../../bin/sh"} {
		config := fmt.Sprintf(`{"credHelpers":{"r.example.com":%q},"auths":{"https://index.docker.io/v1/":{"auth":"aHVidXNlcjpodWJwYXNz"}}}`, store)
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		o := s.berth("", []string{"DOCKER_CONFIG=" + dir}, "pull", "r.example.com/x")
		if o.code != 1 || len(s.took("POST", "/images/create")) > 0 {
			t.Errorf("%s: status %d, errors %q", store, o.code, o.err)
		}
	}
}

func TestCredentialHelpersAreAsked(t *testing.T) {
	dir := configDir(t, `{"credsStore":"all","credHelpers":{"r.example.com":"one","t.example.com":"token","n.example.com":"none"}}`,
		map[string]string{
			"all":   `read server; echo "{\"Username\":\"all\",\"Secret\":\"$server\"}"`,
			"one":   `test "$1" = get && echo '{"Username":"one","Secret":"s"}'`,
			"token": `echo '{"Username":"<token>","Secret":"tok"}'`,
			"none":  `echo credentials not found in native keychain; exit 1`,
		})
	if a := sentAuth(t, dir, "r.example.com/x"); a.Username != "one" || a.Password != "s" {
		t.Errorf("helper of the registry: %+v", a)
	}
	if a := sentAuth(t, dir, "busybox"); a.Username != "all" || a.Password != hubServer {
		t.Errorf("store: %+v", a)
	}
	if a := sentAuth(t, dir, "t.example.com/x"); a.IdentityToken != "tok" || a.Username != "" {
		t.Errorf("token: %+v", a)
	}
	if a := sentAuth(t, dir, "n.example.com/x"); a != (registry.AuthConfig{}) {
		t.Errorf("nothing known: %+v", a)
	}
}

func TestADamagedConfigurationIsReported(t *testing.T) {
	for _, config := range []string{`{`, `{"auths":[]}`, `{"auths":{"r.example.com":{"auth":"!"}}}`, `{"auths":{"r.example.com":{"auth":"eA=="}}}`} {
		s := newFakeServer(t)
		o := s.berth("", []string{"DOCKER_CONFIG=" + configDir(t, config, nil)}, "pull", "r.example.com/x")
		if o.code != 1 || !strings.Contains(o.err, "damaged") {
			t.Errorf("%s: status %d, errors %q", config, o.code, o.err)
		}
	}
}

func TestLoginKeepsWhatTheServerAccepted(t *testing.T) {
	dir := configDir(t, `{"auths":{"old.example.com":{"auth":"eDp5"}},"psFormat":"x","unknown":{"kept":[1]}}`, nil)
	s := newFakeServer(t)
	s.answer("POST /auth", 200, map[string]string{"Status": "Login Succeeded"})
	o := s.berth("secret\n", []string{"DOCKER_CONFIG=" + dir}, "login", "-u", "me", "--password-stdin", "r.example.com")
	if o.code != 0 || o.out != "Login Succeeded\n" || !strings.Contains(o.err, "stored unencrypted") {
		t.Fatalf("status %d, output %q, errors %q", o.code, o.out, o.err)
	}
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"r.example.com"`, `"auth": "bWU6c2VjcmV0"`, `"old.example.com"`, `"psFormat": "x"`, `"kept"`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%s is missing in %s", want, data)
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("others can read it: %v", info.Mode())
	}
	if o := s.berth("", []string{"DOCKER_CONFIG=" + dir}, "logout", "r.example.com"); o.code != 0 {
		t.Errorf("logout: status %d, errors %q", o.code, o.err)
	}
	if data, _ := os.ReadFile(path); strings.Contains(string(data), `"r.example.com"`) || !strings.Contains(string(data), "old.example.com") {
		t.Errorf("after logout: %s", data)
	}
}

func TestLoginKeepsNothingTheServerRefused(t *testing.T) {
	dir := configDir(t, "", nil)
	s := newFakeServer(t)
	s.answer("POST /auth", 401, map[string]string{"message": "unauthorized: incorrect username or password"})
	o := s.berth("secret", []string{"DOCKER_CONFIG=" + dir}, "login", "-u", "me", "--password-stdin", "r.example.com")
	if o.code != 1 || !strings.Contains(o.err, "incorrect username") || exists(filepath.Join(dir, "config.json")) {
		t.Errorf("status %d, errors %q", o.code, o.err)
	}
}

func TestLoginUsesTheHelper(t *testing.T) {
	dir := configDir(t, `{"credsStore":"safe"}`, map[string]string{"safe": `if [ "$1" = store ]; then cat > "$(dirname "$0")/stored"; elif [ "$1" = get ]; then echo credentials not found in native keychain; exit 1; fi`})
	s := newFakeServer(t)
	s.answer("POST /auth", 200, map[string]string{"Status": "Login Succeeded", "IdentityToken": "tok"})
	o := s.berth("secret", []string{"DOCKER_CONFIG=" + dir}, "login", "-u", "me", "--password-stdin", "r.example.com")
	if o.code != 0 || o.err != "" {
		t.Fatalf("status %d, errors %q", o.code, o.err)
	}
	data, _ := os.ReadFile(filepath.Join(dir, "stored"))
	var stored map[string]string
	json.Unmarshal(data, &stored)
	if stored["Username"] != "<token>" || stored["Secret"] != "tok" || stored["ServerURL"] != "r.example.com" {
		t.Errorf("stored %s", data)
	}
	if config, _ := os.ReadFile(filepath.Join(dir, "config.json")); strings.Contains(string(config), "tok") {
		t.Errorf("the secret is in the file too: %s", config)
	}
}
