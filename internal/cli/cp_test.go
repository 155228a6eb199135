package cli

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type entry struct {
	name, text string
	kind       byte
	link       string
	mode       int64
	uid        int
}

func tarOf(t *testing.T, entries ...entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.text)), Uid: e.uid, Gid: e.uid}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.text)
	}
	w.Close()
	return b.Bytes()
}

// offer makes the server's container web have one thing to copy out.
func (s *fakeServer) offer(mode fs.FileMode, archive []byte) {
	stat := fmt.Sprintf(`{"name":"x","size":0,"mode":%d,"mtime":"2020-01-02T03:04:05Z","linkTarget":""}`, uint32(mode))
	s.handle("GET /containers/web/archive", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString([]byte(stat)))
		w.Header().Set("Content-Type", "application/x-tar")
		w.Write(archive)
	})
}

// files lists what is below a directory: name, and the text of files.
func files(t *testing.T, dir string) string {
	var list []string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, path); err == nil && rel != "." {
			if d.Type().IsRegular() {
				data, _ := os.ReadFile(path)
				rel += "=" + string(data)
			}
			list = append(list, rel)
		}
		return nil
	})
	return strings.Join(list, " ")
}

func TestCpOutPlacesAsCpDoes(t *testing.T) {
	file := []entry{{name: "x", text: "1"}}
	dir := []entry{{name: "x/", kind: tar.TypeDir}, {name: "x/f", text: "1"}, {name: "x/g", kind: tar.TypeLink, link: "x/f"}}
	contents := []entry{{name: "./", kind: tar.TypeDir}, {name: "./f", text: "1"}}
	for _, c := range []struct {
		name    string
		mode    fs.FileMode
		entries []entry
		source  string
		before  []string // with a slash: a directory
		dest    string
		after   string
		err     string
	}{
		{"a file to a new name", 0o644, file, "/x", nil, "y", "y=1", ""},
		{"a file into a directory", 0o644, file, "/x", []string{"d/"}, "d", "d d/x=1", ""},
		{"a file into a directory with a slash", 0o644, file, "/x", []string{"d/"}, "d/", "d d/x=1", ""},
		{"a file over a file", 0o644, file, "/x", []string{"y"}, "y", "y=1", ""},
		{"a file to a directory that is missing", 0o644, file, "/x", nil, "d/", "", "no such directory"},
		{"a file below a directory that is missing", 0o644, file, "/x", nil, "d/e", "", "does not exist"},
		{"a directory to a new name", fs.ModeDir | 0o755, dir, "/x", nil, "y", "y y/f=1 y/g=1", ""},
		{"a directory to a new name with a slash", fs.ModeDir | 0o755, dir, "/x", nil, "y/", "y y/f=1 y/g=1", ""},
		{"a directory into a directory", fs.ModeDir | 0o755, dir, "/x", []string{"d/"}, "d", "d d/x d/x/f=1 d/x/g=1", ""},
		{"a directory over a file", fs.ModeDir | 0o755, dir, "/x", []string{"y"}, "y", "y=old", "cannot copy directory"},
		{"contents into a directory", fs.ModeDir | 0o755, contents, "/x/.", []string{"d/"}, "d", "d d/f=1", ""},
		{"contents to a new name", fs.ModeDir | 0o755, contents, "/x/.", nil, "y", "y y/f=1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			work := t.TempDir()
			t.Chdir(work)
			for _, b := range c.before {
				if strings.HasSuffix(b, "/") {
					os.Mkdir(b, 0o755)
				} else {
					os.WriteFile(b, []byte("old"), 0o644)
				}
			}
			s := newFakeServer(t)
			s.offer(c.mode, tarOf(t, c.entries...))
			o := s.berth("", nil, "cp", "web:"+c.source, c.dest)
			if got := files(t, work); got != c.after {
				t.Errorf("there is %q, wanted %q (errors %q)", got, c.after, o.err)
			}
			if c.err == "" && o.code != 0 || c.err != "" && (o.code != 1 || !strings.Contains(o.err, c.err)) {
				t.Errorf("status %d, errors %q", o.code, o.err)
			}
		})
	}
}

// What a container sends may not lead out of the place the person named (CVE-2018-15664, CVE-2026-17106).
func TestCpOutStaysBelowItsDestination(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("safe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, entries := range map[string][]entry{
		"dots":           {{name: "x/../../../../.." + victim, text: "bad"}},
		"absolute":       {{name: victim, text: "bad"}},
		"link and file":  {{name: "x/", kind: tar.TypeDir}, {name: "x/l", kind: tar.TypeSymlink, link: outside}, {name: "x/l/victim", text: "bad"}},
		"link up":        {{name: "x", kind: tar.TypeSymlink, link: "../../../../../../.." + outside}, {name: "x/victim", text: "bad"}},
		"hard link":      {{name: "x/", kind: tar.TypeDir}, {name: "x/h", kind: tar.TypeLink, link: victim}, {name: "x/h", text: "bad"}},
		"hard link dots": {{name: "x/", kind: tar.TypeDir}, {name: "x/h", kind: tar.TypeLink, link: "../../../../../.." + victim}, {name: "x/h", text: "bad"}},
	} {
		for _, dest := range []string{"d", "new"} {
			work := t.TempDir()
			t.Chdir(work)
			os.Mkdir("d", 0o755)
			s := newFakeServer(t)
			s.offer(fs.ModeDir|0o755, tarOf(t, entries...))
			s.berth("", nil, "cp", "web:/x", dest)
			if data, _ := os.ReadFile(victim); string(data) != "safe" {
				t.Errorf("%s to %s: the file outside holds %q", name, dest, data)
				os.WriteFile(victim, []byte("safe"), 0o644)
			}
			if list, _ := os.ReadDir(outside); len(list) != 1 {
				t.Errorf("%s to %s: outside there are %v", name, dest, list)
			}
		}
	}
}

// Devices and foreign owners are for those who ask for them.
func TestCpOutMakesFilesOfTheCaller(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	s := newFakeServer(t)
	s.offer(0o644, tarOf(t, entry{name: "x", text: "1", uid: 1234}))
	for flag, want := range map[string]string{"-L=false": "0", "-a": "1234"} {
		t.Chdir(t.TempDir())
		if o := s.berth("", nil, "cp", flag, "web:/x", "y"); o.code != 0 {
			t.Fatalf("status %d, errors %q", o.code, o.err)
		}
		info, err := os.Stat("y")
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(ownerOf(info)); got != want {
			t.Errorf("%s: owner %s", flag, got)
		}
	}
}

func TestCpOutToAStream(t *testing.T) {
	s := newFakeServer(t)
	archive := tarOf(t, entry{name: "x", text: "1"})
	s.offer(0o644, archive)
	if o := s.berth("", nil, "cp", "web:/x", "-"); o.out != string(archive) {
		t.Errorf("%d bytes, errors %q", len(o.out), o.err)
	}
}

// received is what the server got to lay out, and where.
func received(t *testing.T, s *fakeServer) (where string, list []string) {
	t.Helper()
	put := s.took("PUT", "/archive")
	if len(put) != 1 {
		t.Fatalf("%d archives were sent", len(put))
	}
	r := tar.NewReader(strings.NewReader(put[0].body))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(r)
		name := strings.TrimSuffix(h.Name, "/")
		if h.Typeflag == tar.TypeReg {
			name += "=" + string(data)
		}
		list = append(list, name)
	}
	return put[0].query.Get("path"), list
}

func TestCpInPlacesAsCpDoes(t *testing.T) {
	work := t.TempDir()
	t.Chdir(work)
	os.MkdirAll("d/e", 0o755)
	os.WriteFile("d/f", []byte("1"), 0o644)
	os.WriteFile("x", []byte("2"), 0o644)
	os.Symlink("x", "l")
	os.Symlink("d", "ld")
	for _, c := range []struct {
		source, dest string
		there        fs.FileMode // 0: nothing
		where        string
		sent         string
		err          string
	}{
		{"x", "/y", 0, "/", "y=2", ""},
		{"x", "y", 0, "/", "y=2", ""},
		{"x", "/dir", fs.ModeDir | 0o755, "/dir", "x=2", ""},
		{"x", "/a/y", 0o644, "/a", "y=2", ""},
		{"x", "/dir/", 0, "", "", "no such directory"},
		{"d", "/y", 0, "/", "y y/e y/f=1", ""},
		{"d", "/dir", fs.ModeDir | 0o755, "/dir", "d d/e d/f=1", ""},
		{"d", "/y", 0o644, "", "", "cannot copy directory"},
		{"d/.", "/dir", fs.ModeDir | 0o755, "/dir", ". ./e ./f=1", ""},
		{"d/.", "/y", 0, "/", "y y/e y/f=1", ""},
		{"l", "/y", 0, "/", "y", ""},
		{"ld/", "/y", 0, "/", "y y/e y/f=1", ""},
		{"x/", "/y", 0, "", "", "not a directory"},
		{"nosuch", "/y", 0, "", "", "no such file"},
		{"x", "/dev", fs.ModeDevice | 0o600, "", "", "must be a directory or a regular file"},
	} {
		s := newFakeServer(t)
		s.handle("HEAD /containers/web/archive", func(w http.ResponseWriter, _ *http.Request) {
			if c.there == 0 {
				w.WriteHeader(404)
				return
			}
			stat := fmt.Sprintf(`{"name":"x","mode":%d}`, uint32(c.there))
			w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString([]byte(stat)))
		})
		o := s.berth("", nil, "cp", c.source, "web:"+c.dest)
		if c.err != "" {
			if o.code != 1 || !strings.Contains(o.err, c.err) {
				t.Errorf("%s to %s: status %d, errors %q", c.source, c.dest, o.code, o.err)
			}
			continue
		}
		if o.code != 0 {
			t.Errorf("%s to %s: status %d, errors %q", c.source, c.dest, o.code, o.err)
			continue
		}
		where, sent := received(t, s)
		if where != c.where || strings.Join(sent, " ") != c.sent {
			t.Errorf("%s to %s: %q in %q, wanted %q in %q", c.source, c.dest, sent, where, c.sent, c.where)
		}
	}
	s := newFakeServer(t)
	if o := s.berth("", nil, "cp", "-L", "l", "web:/dir"); o.code != 0 {
		t.Errorf("status %d, errors %q", o.code, o.err)
	}
	if _, sent := received(t, s); strings.Join(sent, " ") != "l=2" {
		t.Errorf("-L sent %q", sent)
	}
}

func TestCpInFromAStream(t *testing.T) {
	s := newFakeServer(t)
	archive := string(tarOf(t, entry{name: "x", text: "1"}))
	if o := s.berth(archive, nil, "cp", "-a", "-", "web:/dir"); o.code != 0 {
		t.Fatalf("status %d, errors %q", o.code, o.err)
	}
	put := s.took("PUT", "/archive")[0]
	if put.body != archive || put.query.Get("copyUIDGID") != "true" || put.query.Get("noOverwriteDirNonDir") != "true" {
		t.Errorf("sent %d bytes with %v", len(put.body), put.query)
	}
}

func TestCpTellsPlacesApart(t *testing.T) {
	for arg, want := range map[string]string{"web:/x": "web|/x", "/a:b": "|/a:b", "./a:b": "|./a:b", "x": "|x", "web:": "web|", "-": "|-",
		"..:x": "|..:x"} {
		if c, p := cpPlace(arg); c+"|"+p != want {
			t.Errorf("%s is %q in %q", arg, p, c)
		}
	}
}
