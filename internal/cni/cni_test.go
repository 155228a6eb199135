package cni

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
)

// host has one plugin, "p", a shell script, and configurations that are files by these names.
func host(t *testing.T, script string, confs map[string]string) *Host {
	t.Helper()
	bin, conf := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "p"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range confs {
		path := filepath.Join(conf, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h, err := Open(Options{ConfDir: conf, BinDirs: []string{bin}, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

const answers = `
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}';;
ADD) cat >>"$0.in"; env >"$0.env"; echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.8.7/24","gateway":"10.9.8.1"}],"routes":[{"dst":"0.0.0.0/0"}]}';;
DEL) test ! -e "$0.stuck" || { echo '{"code":11,"msg":"later"}'; exit 1; }; cat >>"$0.del";;
esac
`

// TestLife: what is added is known until it was deleted, also to the next daemon and when the configuration is gone.
func TestLife(t *testing.T) {
	t.Setenv("SECRET", "of the daemon")
	h := host(t, answers, map[string]string{
		"10-list.conflist": `{"cniVersion":"1.0.0","name":"list","plugins":[{"type":"p","capabilities":{"portMappings":true,"bandwidth":true}}]}`,
		"20-single.conf":   `{"cniVersion":"0.4.0","name":"single","type":"p"}`,
		"30.conflist":      `{"cniVersion":"1.0.0","name":"folder","plugins":[{"type":"p"}]}`,
		"00-bad.conflist":  `{"cniVersion":`,
		"folder/1.conf":    `{"type":"p","note":"of the folder"}`,
	})
	ctx := context.Background()
	_, err := h.Config("other")
	if err == nil || !strings.Contains(err.Error(), "; there are: list, single, folder; not understood: 00-bad.conflist: ") {
		t.Error(err)
	}
	for _, name := range []string{"list", "single", "folder"} {
		if _, err := h.Validate(ctx, name); err != nil {
			t.Fatal(err)
		}
		c, err := h.Config(name)
		if err != nil {
			t.Fatal(err)
		}
		a := Attachment{ID: strings.Repeat("a", 60) + name[:4], Network: "n", Config: c.Name, Container: "c-" + name, Interface: "eth0"}
		if name == "list" {
			a.Ports = []Port{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}
			a.Rates = Rates{Receive: 1250000, Send: 125 << 20}
		}
		r, err := h.Add(ctx, c, a, "/proc/self/ns/net")
		if err != nil || r.IPv4.String() != "10.9.8.7/24" || r.Gateway.String() != "10.9.8.1" {
			t.Fatalf("%+v %v", r, err)
		}
	}
	if err := os.RemoveAll(h.opts.ConfDir); err != nil {
		t.Fatal(err)
	}
	plugin := filepath.Join(h.opts.BinDirs[0], "p")
	in, env := read(t, plugin+".in"), read(t, plugin+".env")
	if !strings.Contains(in, `"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]`) || !strings.Contains(in, "of the folder") {
		t.Error(in)
	}
	if !strings.Contains(in, `"bandwidth":{"egressBurst":10485760,"egressRate":1048576000,"ingressBurst":1048576,"ingressRate":10000000}`) {
		t.Error(in)
	}
	if strings.Contains(env, "SECRET") || !strings.Contains(env, "CNI_IFNAME=eth0") {
		t.Error(env)
	}

	again, err := Open(h.opts)
	if err != nil {
		t.Fatal(err)
	}
	all, damaged := again.List()
	if len(all) != 3 || len(damaged) != 0 || all[0].Result == nil {
		t.Fatalf("%+v %v", all, damaged)
	}
	if err := os.WriteFile(plugin+".stuck", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again.Del(ctx, all[0].ID, ""); err == nil || !strings.Contains(err.Error(), "clean up: CNI configuration ") {
		t.Error(err)
	}
	if left, _ := again.List(); len(left) != 3 {
		t.Errorf("%+v", left)
	}
	if err := os.Remove(plugin + ".stuck"); err != nil {
		t.Fatal(err)
	}
	for _, k := range all {
		if err := again.Del(ctx, k.ID, ""); err != nil {
			t.Error(err)
		}
		if err := again.Del(ctx, k.ID, ""); err != nil {
			t.Errorf("the second time: %v", err)
		}
	}
	if left, _ := again.List(); len(left) != 0 {
		t.Errorf("%+v", left)
	}
	if del := read(t, plugin+".del"); !strings.Contains(del, "of the folder") || !strings.Contains(del, `"prevResult"`) {
		t.Error(del)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDamagedRecords are set aside and told of once.
func TestDamagedRecords(t *testing.T) {
	h := host(t, answers, nil)
	for i, text := range []string{"", "{", `{"version":1}`, `{"version":9,"ID":"x"}`, `{"version":1,"ID":"id4","conf":{}}`} {
		if err := os.WriteFile(h.path("id"+string(rune('0'+i))), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if all, damaged := h.List(); len(all) != 0 || len(damaged) != 5 {
		t.Errorf("%+v %v", all, damaged)
	}
	if all, damaged := h.List(); len(all)+len(damaged) != 0 {
		t.Errorf("%+v %v", all, damaged)
	}
}

func FuzzParseSaved(f *testing.F) {
	f.Add(`{"version":1,"ID":"a","Interface":"eth0","conf":{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"p"}]}}`)
	f.Add(`{"version":1,"ID":"a","Ports":[{}],"conf":{"name":"x","plugins":[]}}`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := parseSaved([]byte(text), "a"); err == nil {
			if _, _, err := s.again(""); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzReadResult(f *testing.F) {
	f.Add(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x","mac":"02:00:00:00:00:01"}],"ips":[{"address":"10.1.2.3/24","interface":0}]}`)
	f.Add(`{"cniVersion":"1.0.0","ips":[{"address":"fd00::3/64","gateway":"fd00::1"}],"routes":[{"dst":"::/0"}],"dns":{"nameservers":["x","fe80::1%a"]}}`)
	f.Add(`{"cniVersion":"1.0.0","ips":[{"interface":-1}],"routes":[null]}`)
	f.Add(`{"cniVersion":"1.0.0","ips":[null],"interfaces":[null]}`)
	f.Fuzz(func(t *testing.T, text string) {
		if noHoles([]byte(text)) != nil {
			return
		}
		made, err := types100.NewResult([]byte(text))
		if err != nil {
			return
		}
		r, err := readResult(made, "eth0")
		if err == nil && !r.IPv4.IsValid() && !r.IPv6.IsValid() {
			t.Errorf("%+v", r)
		}
	})
}

func FuzzConfiguration(f *testing.F) {
	f.Add(`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"p"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		list, err := libcni.NetworkConfFromBytes([]byte(text))
		if err != nil {
			return
		}
		c := &Config{list.Name, list}
		b, err := c.bytes()
		if err != nil {
			t.Fatalf("%s cannot be put together again: %v", text, err)
		}
		if _, err := libcni.NetworkConfFromBytes(b); err != nil && len(list.Plugins) > 0 {
			t.Errorf("%s: %v", b, err)
		}
	})
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{"a\x1b[31m\nb\t c\x00": "a [31m b c", "\xff\xfe": "?", strings.Repeat("é", 1001): strings.Repeat("é", 1000) + " …"} {
		if got := plain([]byte(in)); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

// TestOddFiles: what stands among the configurations and is none keeps nobody waiting, and does not hide the others.
func TestOddFiles(t *testing.T) {
	h := host(t, answers, map[string]string{"50.conf": `{"cniVersion":"0.4.0","name":"good","type":"p"}`, "20-bomb.conf": strings.Repeat("[", 200_000),
		"21\n\x1b[2J.conflist": `{"cniVersion":"1.0.0","name":"terminal","plugins":[{"type":"p"}]`, "22-empty.json": "", "23-null.conflist": "null"})
	dir := h.opts.ConfDir
	for _, err := range []error{
		unix.Mkfifo(filepath.Join(dir, "10-pipe.conf"), 0o600), unix.Mkfifo(filepath.Join(dir, "11-pipe.conflist"), 0o600),
		os.Symlink("/dev/zero", filepath.Join(dir, "12-zero.conf")), os.Symlink("13-loop.conf", filepath.Join(dir, "13-loop.conf")),
		os.Symlink("/nowhere", filepath.Join(dir, "14-gone.conflist")), os.Mkdir(filepath.Join(dir, "15-dir.conf"), 0o700),
		os.WriteFile(filepath.Join(dir, "16-huge.conf"), nil, 0o600), os.Truncate(filepath.Join(dir, "16-huge.conf"), 1<<40),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Config("good"); err != nil {
		t.Error(err)
	}
	_, err := h.Config("other")
	if err == nil {
		t.Fatal("there is another")
	}
	for _, want := range []string{"there are: good", "10-pipe.conf: it is no file", "12-zero.conf: it is no file", "16-huge.conf: it has more than"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: nothing of %q", err, want)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("%q would be obeyed by a terminal", err)
	}
}
