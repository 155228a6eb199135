package dockerapi

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
)

// Every file of testdata/create/bad is a body after a line with what the refusal must say.
func TestCreateRefusesBadBodies(t *testing.T) {
	files, err := filepath.Glob("testdata/create/bad/*.txt")
	if err != nil || len(files) < 50 {
		t.Fatalf("only %d bad bodies found: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, body, _ := strings.Cut(string(data), "\n")
			_, _, err = translate([]byte(body), MaxVersion)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("got error %v\nwant one that says %q", err, want)
			}
			if status := statusOf(err); status != 400 && status != 501 && status != 404 {
				t.Errorf("status %d for a bad request", status)
			}
		})
	}
}

func translate(body []byte, v version) (container.Config, []string, error) {
	q, warnings, err := decodeCreate(body, v)
	if err != nil {
		return container.Config{}, nil, err
	}
	c, more, err := q.config(false)
	return c, append(warnings, more...), err
}

func mustTranslate(t *testing.T, body string, v version) container.Config {
	t.Helper()
	c, _, err := translate([]byte(body), v)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return c
}

func TestCreateTakesAStringForACommand(t *testing.T) {
	c := mustTranslate(t, `{"Image":"a","Cmd":"date","Entrypoint":["env"]}`, MaxVersion)
	if got := c.Process.Argv(); !reflect.DeepEqual(got, []string{"env", "date"}) {
		t.Errorf("argv %q", got)
	}
}

func TestCreateToleratesUnknownFields(t *testing.T) {
	mustTranslate(t, `{"Image":"a","FromTheFuture":{"x":[1]},"HostConfig":{"KernelMemory":0,"Whatever":null}}`, 41)
}

func TestCreateDefaultNetworkIsBridge(t *testing.T) {
	for _, body := range []string{
		`{"Image":"a"}`, `{"Image":"a","HostConfig":{"NetworkMode":"default"}}`,
		`{"Image":"a","HostConfig":{"NetworkMode":"default"},"NetworkingConfig":{"EndpointsConfig":{"default":{}}}}`,
		`{"Image":"a","HostConfig":{"NetworkMode":"bridge"},"NetworkingConfig":{"EndpointsConfig":{"bridge":null}}}`,
	} {
		c := mustTranslate(t, body, 50)
		if c.Net.Mode != "bridge" || len(c.Net.Endpoints) != 1 || c.Net.Endpoints[0].Network != "bridge" {
			t.Errorf("%s: %+v", body, c.Net)
		}
	}
}

func TestCreateMainNetworkComesFirst(t *testing.T) {
	c := mustTranslate(t, `{"Image":"a","HostConfig":{"NetworkMode":"zz"},
		"NetworkingConfig":{"EndpointsConfig":{"aa":{},"zz":{"Aliases":["web"],
		"IPAMConfig":{"IPv4Address":"10.9.0.5"}}}}}`, 50)
	if e := c.Net.Endpoints; len(e) != 2 || e[0].Network != "zz" || e[0].IPv4 != "10.9.0.5" || e[1].Network != "aa" {
		t.Errorf("%+v", e)
	}
}

func TestCreatePorts(t *testing.T) {
	c := mustTranslate(t, `{"Image":"a","ExposedPorts":{"80/tcp":{},"53/udp":{}},"HostConfig":{"PortBindings":{
		"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"},{"HostPort":"9000-9010"}],
		"53/udp":[{"HostIp":"","HostPort":"0"}]}}}`, 41)
	want := []container.Port{
		{Container: 53, Proto: "udp"},
		{Container: 80, Proto: "tcp", HostIP: "127.0.0.1", HostPort: "8080"},
		{Container: 80, Proto: "tcp", HostPort: "9000-9010"},
	}
	if !reflect.DeepEqual(c.Net.Ports, want) || !reflect.DeepEqual(c.Exposed, []string{"53/udp", "80/tcp"}) {
		t.Errorf("%+v %v", c.Net.Ports, c.Exposed)
	}
}

func TestCreateMounts(t *testing.T) {
	c := mustTranslate(t, `{"Image":"a","Volumes":{"/anon":{},"/b":{}},"HostConfig":{
		"Binds":["/a:/b","/c:/d:ro,rslave","vol:/e:nocopy","/f"],"Tmpfs":{"/t":"size=1m"},
		"Mounts":[{"Type":"tmpfs","Target":"/u","TmpfsOptions":{"SizeBytes":1048576,"Mode":1023,"Options":[["exec"]]}},
		{"Type":"bind","Source":"/g","Target":"/h","ReadOnly":true}]}}`, 50)
	want := []container.Mount{
		{Type: "bind", Source: "/a", Target: "/b", CreateSource: true, FromAPI: "binds"},
		{Type: "bind", Source: "/c", Target: "/d", Mode: "ro,rslave", ReadOnly: true, Propagation: "rslave",
			CreateSource: true, FromAPI: "binds"},
		{Type: "volume", Source: "vol", Target: "/e", Mode: "nocopy", NoCopy: true, FromAPI: "binds"},
		{Type: "tmpfs", Target: "/u", TmpfsSize: 1 << 20, TmpfsMode: 0o1777, TmpfsOptions: "exec", FromAPI: "mounts"},
		{Type: "bind", Source: "/g", Target: "/h", ReadOnly: true, FromAPI: "mounts"},
	}
	if !reflect.DeepEqual(c.Mounts, want) {
		t.Errorf("got  %+v\nwant %+v", c.Mounts, want)
	}
	if !reflect.DeepEqual(c.Volumes, []string{"/f", "/anon"}) {
		t.Errorf("volumes %q", c.Volumes)
	}
}

// What older clients send must mean what it meant then.
func TestCreateOfOlderVersions(t *testing.T) {
	body := `{"Image":"a","MacAddress":"02:42:ac:11:00:09","Healthcheck":{"Test":["CMD","x"],"StartInterval":5000000},
		"HostConfig":{"AutoRemove":true,"Annotations":{"a":"b"},"ConsoleSize":[24,80],"Binds":["/a:/b:ro"],
		"Mounts":[{"Type":"bind","Source":"/c","Target":"/d","BindOptions":{"CreateMountpoint":true}}]}}`
	for _, v := range []version{24, 41, 43, 50} {
		c := mustTranslate(t, body, v)
		if c.AutoRemove != (v >= 25) {
			t.Errorf("%s: AutoRemove %t", v, c.AutoRemove)
		}
		if (c.Health.StartInterval != 0) != (v >= 44) {
			t.Errorf("%s: StartInterval %s", v, c.Health.StartInterval)
		}
		if (c.Process.ConsoleRows == 24) != (v >= 42) || (len(c.Extra.Annotations) == 1) != (v >= 43) {
			t.Errorf("%s: console %d, annotations %v", v, c.Process.ConsoleRows, c.Extra.Annotations)
		}
		if c.Mounts[0].ReadOnlyNonRecursive != (v < 44) || c.Mounts[1].CreateSource != (v >= 42) {
			t.Errorf("%s: mounts %+v", v, c.Mounts)
		}
		if (c.Security.IpcMode == "shareable") != (v < 40) {
			t.Errorf("%s: ipc mode %q", v, c.Security.IpcMode)
		}
		if mac := c.Net.Endpoints[0].MacAddress; mac != "02:42:ac:11:00:09" || c.Net.MacAddress != "" {
			t.Errorf("%s: mac address %q", v, mac)
		}
	}
	c, warnings, err := translate([]byte(`{"Image":"a","MacAddress":"02:42:ac:11:00:09"}`), 52)
	if err != nil || c.Net.Endpoints[0].MacAddress != "" || !strings.Contains(strings.Join(warnings, "\n"), "has no effect since API version 1.52") {
		t.Errorf("the container-wide mac address in 1.52: %v, warnings %q", err, warnings)
	}
	_, _, err = translate([]byte(`{"Image":"a","NetworkingConfig":{"EndpointsConfig":{"b":{},"a":{}}}}`), 43)
	if err == nil || err.Error() != "Container cannot be created with multiple network endpoints: a, b" {
		t.Errorf("two networks in 1.43: %v", err)
	}
	// Options of another type of mount were let through before 1.42.
	odd := `{"Image":"a","HostConfig":{"Mounts":[
		{"Type":"bind","Source":"/c","Target":"/d","VolumeOptions":{"NoCopy":true}}]}}`
	mustTranslate(t, odd, 41)
	if _, _, err := translate([]byte(odd), 42); !errdefs.IsInvalidArgument(err) {
		t.Errorf("foreign options in 1.42: %v", err)
	}
}

// Every file of testdata/create/good is a body as a real client sent it; its name begins with the version it spoke.
func TestCreateTakesRecordedBodies(t *testing.T) {
	files, _ := filepath.Glob("testdata/create/good/*.json")
	if len(files) < 5 {
		t.Fatalf("only %d recorded bodies", len(files))
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		minor, _, _ := strings.Cut(filepath.Base(file), "-")
		v, ok := parseVersion("1." + minor)
		if !ok {
			t.Fatalf("%s: the name does not begin with a version", file)
		}
		c, warnings, err := translate(data, v)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, warnings %q", file, err, warnings)
			continue
		}
		if !strings.Contains(file, "-all") {
			continue
		}
		e := c.Net.Endpoints[0]
		if e.Network != "foo" || e.IPv4 != "10.0.0.5" || e.MacAddress != "02:42:ac:11:00:09" || !c.Init ||
			*c.Limits.PidsLimit != 10 || c.Limits.Memory != 100<<20 || c.Process.Argv()[0] != "env" {
			t.Errorf("%s: %+v", file, c)
		}
	}
}

func TestSecurityOptions(t *testing.T) {
	c := mustTranslate(t, `{"Image":"a","HostConfig":{"SecurityOpt":["no-new-privileges:true","seccomp=unconfined",
		"apparmor=unconfined","label=disable"],"CapAdd":["net_admin","CAP_SYS_TIME"],"CapDrop":["ALL"]}}`, 50)
	s := c.Security
	if !s.NoNewPrivileges || s.Seccomp != "unconfined" || s.AppArmor != "unconfined" || len(s.Labels) != 1 {
		t.Errorf("%+v", s)
	}
}

func FuzzCreate(f *testing.F) {
	files, _ := filepath.Glob("testdata/create/*/*")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		_, body, _ := strings.Cut(string(data), "\n")
		f.Add([]byte(body), 41)
		f.Add(data, 50)
	}
	f.Fuzz(func(t *testing.T, body []byte, v int) {
		c, _, err := translate(body, version(v))
		if err != nil {
			if s := statusOf(err); s >= 500 && s != 501 {
				t.Fatalf("status %d for %v", s, err)
			}
			return
		}
		// Whatever is accepted can be saved and shown.
		if _, err := json.Marshal(c); err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(hostConfigOf(&c)); err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(configOf(&c)); err != nil {
			t.Fatal(err)
		}
	})
}
