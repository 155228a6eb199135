package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
)

// table runs a grammar on good input, whose result is written as JSON, and on bad input, which is refused with a sentence
// that holds a word.
func table[T any](t *testing.T, parse func(string) (T, error), good map[string]string, bad map[string]string) {
	t.Helper()
	for in, want := range good {
		v, err := parse(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		got, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%q:\n  is     %s\n  wanted %s", in, got, want)
		}
	}
	for in, want := range bad {
		v, err := parse(in)
		if err == nil {
			t.Errorf("%q was accepted as %v", in, v)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q does not say %q", in, err, want)
		}
	}
}

func TestVolumeGrammar(t *testing.T) {
	t.Chdir("/usr/share")
	table(t, parseVolume, map[string]string{
		"/data":               `{"Source":"","Target":"/data","Bind":""}`,
		"name:/data":          `{"Source":"name","Target":"/data","Bind":"name:/data"}`,
		"name:/data:ro":       `{"Source":"name","Target":"/data","Bind":"name:/data:ro"}`,
		"/a:/b":               `{"Source":"/a","Target":"/b","Bind":"/a:/b"}`,
		"/a:/b:ro,z,rslave":   `{"Source":"/a","Target":"/b","Bind":"/a:/b:ro,z,rslave"}`,
		".:/b":                `{"Source":"/usr/share","Target":"/b","Bind":"/usr/share:/b"}`,
		"./x:/b":              `{"Source":"/usr/share/x","Target":"/b","Bind":"/usr/share/x:/b"}`,
		"../x:/b:ro":          `{"Source":"/usr/x","Target":"/b","Bind":"/usr/x:/b:ro"}`,
		"/with space:/b":      `{"Source":"/with space","Target":"/b","Bind":"/with space:/b"}`,
		"~/x:/b":              `{"Source":"~/x","Target":"/b","Bind":"~/x:/b"}`, // the shell's business
		"name:/data:nocopy":   `{"Source":"name","Target":"/data","Bind":"name:/data:nocopy"}`,
		"UPPER_name.-:/data":  `{"Source":"UPPER_name.-","Target":"/data","Bind":"UPPER_name.-:/data"}`,
		"relative/no/dot:/b":  `{"Source":"relative/no/dot","Target":"/b","Bind":"relative/no/dot:/b"}`,
		"/a:/b:unknown-words": `{"Source":"/a","Target":"/b","Bind":"/a:/b:unknown-words"}`,
	}, map[string]string{
		"": "empty volume spec", ":": "empty section", "a:": "empty section", ":b": "empty section", "a:b:": "empty section",
		"a::b": "empty section", "a:b:c:d": "too many colons", "::::": "empty section",
	})
}

func FuzzVolumeGrammar(f *testing.F) {
	for _, s := range []string{"/data", "name:/data:ro", "./x:/b", "::", "a:b:c:d", ".:/x", "..:/", "\x00:/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseVolume(s)
		if err != nil {
			return
		}
		if v.Target == "" {
			t.Errorf("%q has no target", s)
		}
		if (v.Source == "") != (v.Bind == "") {
			t.Errorf("%q: source %q and bind %q disagree", s, v.Source, v.Bind)
		}
		if v.Bind != "" && !strings.HasPrefix(v.Bind, v.Source+":"+v.Target) {
			t.Errorf("%q became %q", s, v.Bind)
		}
	})
}

func TestMountGrammar(t *testing.T) {
	t.Chdir("/usr/share")
	table(t, parseMount, map[string]string{
		"type=bind,source=/a,target=/b":                   `{"Type":"bind","Source":"/a","Target":"/b"}`,
		"type=BIND,src=/a,dst=/b,ro":                      `{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true}`,
		"type=bind,src=.,dst=/b,readonly=false":           `{"Type":"bind","Source":"/usr/share","Target":"/b"}`,
		"type=bind,src=../x,dst=/b,readonly=1":            `{"Type":"bind","Source":"/usr/x","Target":"/b","ReadOnly":true}`,
		"type=bind,src=.hidden,dst=/b":                    `{"Type":"bind","Source":".hidden","Target":"/b"}`,
		"dst=/b":                                          `{"Type":"volume","Target":"/b"}`,
		"src=v,destination=/b,volume-nocopy":              `{"Type":"volume","Source":"v","Target":"/b","VolumeOptions":{"NoCopy":true}}`,
		"dst=/b,volume-label=a=b,volume-label=c":          `{"Type":"volume","Target":"/b","VolumeOptions":{"Labels":{"a":"b","c":""}}}`,
		"dst=/b,volume-driver=x,volume-opt=o=a=b":         `{"Type":"volume","Target":"/b","VolumeOptions":{"DriverConfig":{"Name":"x","Options":{"o":"a=b"}}}}`,
		`dst=/b,"volume-opt=o=a,b"`:                       `{"Type":"volume","Target":"/b","VolumeOptions":{"DriverConfig":{"Options":{"o":"a,b"}}}}`,
		"type=tmpfs,dst=/b":                               `{"Type":"tmpfs","Target":"/b"}`,
		"type=tmpfs,dst=/b,tmpfs-size=1k,tmpfs-mode=700":  `{"Type":"tmpfs","Target":"/b","TmpfsOptions":{"SizeBytes":1024,"Mode":448}}`,
		"type=image,src=busybox,dst=/b":                   `{"Type":"image","Source":"busybox","Target":"/b"}`,
		"type=bind,src=/a,dst=/b,bind-create-src":         `{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"CreateMountpoint":true}}`,
		"type=bind,src=/a,dst=/b,bind-nonrecursive":       `{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"NonRecursive":true}}`,
		"type=bind,src=/a,dst=/b,bind-propagation=RSLAVE": `{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"Propagation":"rslave"}}`,
		"type=bind,src=/a,dst=/b,bind-recursive=enabled":  `{"Type":"bind","Source":"/a","Target":"/b"}`,
		"type=bind,src=/with space,dst=/b":                `{"Type":"bind","Source":"/with space","Target":"/b"}`,
	}, map[string]string{
		"": "empty", " ": "empty", "type=bind": "target is required", "foo": "key=value", "type=npipe,dst=/b": "not for Linux",
		"type=nosuch,dst=/b": "unknown mount type", "dst=/b,foo=bar": "unexpected key 'foo'", "dst=": "value is empty",
		"dst=/b, ro": "whitespace", "dst= /b": "whitespace", "dst=/b,ro=perhaps": "invalid value",
		"dst=/b,tmpfs-size=1m": "cannot mix 'tmpfs-*'", "type=tmpfs,dst=/b,bind-propagation=shared": "cannot mix 'bind-*'",
		"type=bind,dst=/b,src=/a,image-subpath=x": "cannot mix 'image-*'", `dst="/b`: "bare",
		"type=bind,src=/a,dst=/b,bind-recursive=x": "must be", "type=tmpfs,dst=/b,tmpfs-mode=8": "invalid value",
	})
}

func FuzzMountGrammar(f *testing.F) {
	for _, s := range []string{"type=bind,src=/a,dst=/b,ro", "dst=/b", `"dst=/b","volume-opt=o=a,b"`, "type=tmpfs,dst=/x,tmpfs-mode=1777",
		"type=bind,src=/a,dst=/b,readonly,bind-recursive=readonly,bind-propagation=rprivate", ",,,", "=", "ro"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseMount(s)
		if err != nil {
			return
		}
		if m.Target == "" {
			t.Errorf("%q has no target", s)
		}
		if n := count(m.BindOptions != nil, m.VolumeOptions != nil, m.TmpfsOptions != nil, m.ImageOptions != nil); n > 1 {
			t.Errorf("%q has options of %d types", s, n)
		}
	})
}

func count(list ...bool) (n int) {
	for _, b := range list {
		if b {
			n++
		}
	}
	return n
}

func TestPortGrammar(t *testing.T) {
	publish := func(s string) (string, error) {
		_, bindings, err := parsePorts([]string{s}, nil)
		if err != nil {
			return "", err
		}
		var list []string
		for _, port := range sortedPorts(bindings) {
			for _, b := range bindings[port] {
				ip := ""
				if b.HostIP.IsValid() {
					ip = b.HostIP.String()
				}
				list = append(list, fmt.Sprintf("%s>%s>%s", ip, b.HostPort, port))
			}
		}
		return strings.Join(list, " "), nil
	}
	table(t, publish, map[string]string{
		"80": `"\u003e\u003e80/tcp"`, "80/udp": `"\u003e\u003e80/udp"`, "80/SCTP": `"\u003e\u003e80/sctp"`,
		"8080:80": `"\u003e8080\u003e80/tcp"`, "127.0.0.1:8080:80": `"127.0.0.1\u003e8080\u003e80/tcp"`,
		"127.0.0.1::80": `"127.0.0.1\u003e\u003e80/tcp"`, "[::1]:1:2/udp": `"::1\u003e1\u003e2/udp"`,
		"1-2:3-4":                          `"\u003e1\u003e3/tcp \u003e2\u003e4/tcp"`,
		"8000-9000:80":                     `"\u003e8000-9000\u003e80/tcp"`,
		"published=1,target=2":             `"\u003e1\u003e2/tcp"`,
		"target=2,protocol=udp":            `"\u003e\u003e2/udp"`,
		"published=1-2,target=3-4":         `"\u003e1\u003e3/tcp \u003e2\u003e4/tcp"`,
		"published=1-3,target=2,mode=host": `"\u003e1-3\u003e2/tcp"`,
	}, map[string]string{
		"": "no port", ":": "no port", "x": "invalid containerPort", "80:x": "invalid containerPort", "x:80": "invalid hostPort",
		"1.2.3:1:2": "invalid IP", "1-3:1-2": "invalid ranges", "80/foo": "invalid proto", "70000": "invalid containerPort",
		"2-1": "invalid containerPort", "target=": "key=value", "published=1": "'target'", "target=1,foo=2": "unknown option", "target=1/udp": "'target'",
		"target=1,mode=x": "must be 'ingress' or 'host'", "-1:80": "invalid hostPort",
	})
}

func FuzzPortGrammar(f *testing.F) {
	for _, s := range []string{"80", "8080:80/udp", "[::1]:1-2:3-4", "127.0.0.1::80", "target=1,published=2", "::::", "1-65535:1-65535"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		exposed, bindings, err := parsePorts([]string{s}, nil)
		if err != nil {
			return
		}
		for port := range bindings {
			if _, ok := exposed[port]; !ok || !port.IsValid() {
				t.Errorf("%q publishes %v, which is not exposed", s, port)
			}
		}
	})
}

func TestExposeGrammar(t *testing.T) {
	exposed, _, err := parsePorts(nil, []string{"80", "100-102/udp", "80/tcp"})
	if err != nil || len(exposed) != 4 {
		t.Errorf("%v, %v", exposed, err)
	}
	for _, bad := range []string{"", "x", "80:80", "5-1", "70000"} {
		if _, _, err := parsePorts(nil, []string{bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestEnvironmentFileGrammar(t *testing.T) {
	env := map[string]string{"HERE": "there", "EMPTY": ""}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	parse := func(s string) ([]string, error) { return parseKeyValues(strings.NewReader(s), lookup) }
	table(t, parse, map[string]string{
		"":                                `null`,
		"A=1\nB=2":                        `["A=1","B=2"]`,
		"A=1\r\nB=2\r\n":                  `["A=1","B=2"]`,
		"# c\n\n  # c\n A=1 ":             `["A=1 "]`,
		"HERE\nNOWHERE\nEMPTY":            `["HERE=there","EMPTY="]`,
		"A=\"quoted\" 'x' $HERE":          `["A=\"quoted\" 'x' $HERE"]`,
		"A=b=c":                           `["A=b=c"]`,
		"\ufeffA=1":                       `["A=1"]`,
		"with.dots-and-dashes=1":          `["with.dots-and-dashes=1"]`,
		"A=" + strings.Repeat("x", 70000): `["A=` + strings.Repeat("x", 70000) + `"]`,
	}, map[string]string{
		"=x": "no variable name", "A B=1": "whitespace", "A\tB": "whitespace", "A=1\nB=\xff": "utf8 bytes at line 2",
	})
	if list, err := parseKeyValues(strings.NewReader("A\nB=1"), nil); err != nil || fmt.Sprint(list) != "[A B=1]" {
		t.Errorf("labels: %q, %v", list, err)
	}
}

func FuzzEnvironmentFileGrammar(f *testing.F) {
	for _, s := range []string{"A=1\nB", "# c\n", "=x", "\xef\xbb\xbfA=1", "A B=1", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseKeyValues(strings.NewReader(s), func(string) (string, bool) { return "v", true })
		if err != nil {
			return
		}
		for _, kv := range list {
			name, _, ok := strings.Cut(kv, "=")
			if !ok || name == "" || strings.ContainsFunc(name, unicode.IsSpace) {
				t.Errorf("%q gave %q", s, kv)
			}
		}
	})
}

func TestNetworkGrammar(t *testing.T) {
	parse := func(s string) (string, error) {
		n, err := parseNetwork(s)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(n.name, n.aliases, n.ip, n.ip6, n.linkLocal, n.mac, n.driverOpts, n.gatewayOrder), nil
	}
	table(t, parse, map[string]string{
		"mine":                      `"mine[] invalid IP invalid IP []map[] 0"`,
		"host":                      `"host[] invalid IP invalid IP []map[] 0"`,
		"container:abc":             `"container:abc[] invalid IP invalid IP []map[] 0"`,
		"name=Mine,alias=A,alias=b": `"Mine[A b] invalid IP invalid IP []map[] 0"`,
		"name=x,ip=10.0.0.1,ip6=fd00::1,link-local-ip=169.254.1.1": `"x[] 10.0.0.1 fd00::1 [169.254.1.1]map[] 0"`,
		"name=x,driver-opt=Key=Value,gw-priority=-3":               `"x[] invalid IP invalid IP []map[key:Value] -3"`,
	}, map[string]string{
		"name=": "not specified", "alias=x": "not specified", "name=x,foo=y": "invalid field key", "name=x,y": "invalid field",
		"name=x,ip=1.2.3": "invalid ip", "name=x,gw-priority=y": "invalid gw-priority", "name=x,driver-opt=y": "driver options",
	})
}

func FuzzNetworkGrammar(f *testing.F) {
	for _, s := range []string{"mine", "name=x,alias=y", "name=x,ip=::1", "container:x", ",=", "a=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseNetwork(s); err == nil && s != "" && n.name == "" {
			t.Errorf("%q has no name", s)
		}
	})
}

func TestDeviceGrammar(t *testing.T) {
	parse := func(s string) (any, error) {
		if _, err := validDevice(s); err != nil {
			return nil, err
		}
		return parseDevice(s)
	}
	table(t, parse, map[string]string{
		"/dev/a":           `{"PathOnHost":"/dev/a","PathInContainer":"/dev/a","CgroupPermissions":"rwm"}`,
		"/dev/a:/dev/b":    `{"PathOnHost":"/dev/a","PathInContainer":"/dev/b","CgroupPermissions":"rwm"}`,
		"/dev/a:r":         `{"PathOnHost":"/dev/a","PathInContainer":"/dev/a","CgroupPermissions":"r"}`,
		"/dev/a:/dev/b:mw": `{"PathOnHost":"/dev/a","PathInContainer":"/dev/b","CgroupPermissions":"mw"}`,
	}, map[string]string{
		"a": "absolute", "/a:b": "absolute", "/a:/b:x": "bad mode", "/a:/b:rr": "bad mode", "/a:/b:r:w": "bad format", "": "absolute",
	})
	for name, cdi := range map[string]bool{"vendor.com/class=x": true, "v/c=a:b": true, "/dev/a=b": false, "v/c=": false,
		"v/c": false, "v/=x": false, "-v/c=x": false, "v/c=x/": false} {
		if cdiName(name) != cdi {
			t.Errorf("%q: CDI is %v", name, !cdi)
		}
	}
}

func TestCPUsGrammar(t *testing.T) {
	table(t, parseCPUs, map[string]string{"1": "1000000000", "1.5": "1500000000", ".25": "250000000", "0.000000001": "1", "3/2": "1500000000"},
		map[string]string{"": "rational", "x": "rational", "1e999999999": "rational", "0x10": "rational", "1.0000000001": "precise",
			"99999999999999999999": "too many"})
}

func TestPlatformGrammar(t *testing.T) {
	table(t, parsePlatform, map[string]string{
		"linux/arm64/v8": `{"architecture":"arm64","os":"linux","variant":"v8"}`,
		"linux/x86_64":   `{"architecture":"amd64","os":"linux"}`,
		"arm64":          `{"architecture":"arm64","os":"linux"}`,
	}, map[string]string{"": "write it as", "a/b/c/d": "write it as", "/": "write it as", "linux/ amd64": "write it as"})
}

func TestHostGrammar(t *testing.T) {
	table(t, validHost, map[string]string{
		"a:1.2.3.4": `"a:1.2.3.4"`, "a=1.2.3.4": `"a:1.2.3.4"`, "a:::1": `"a:::1"`, "a=[::1]": `"a:::1"`, "a:host-gateway": `"a:host-gateway"`,
	}, map[string]string{"a": "bad format", ":1.2.3.4": "bad format", "a:b": "invalid IP", "a:": "invalid IP"})
}
