package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// scripted is a container of the fake server: it starts when it is told, writes when it has its input, and ends.
type scripted struct {
	*fakeServer
	mu      sync.Mutex // guards order
	order   []string
	started chan struct{}
	exit    int
	stdin   chan string // what arrived until the half-close
	script  func(in io.Reader, out io.Writer)
	startIs func(w http.ResponseWriter)
}

func newScripted(t *testing.T) *scripted {
	s := &scripted{fakeServer: newFakeServer(t), started: make(chan struct{}), stdin: make(chan string, 1),
		script: func(_ io.Reader, out io.Writer) { io.WriteString(out, frame(1, "done\n")) }}
	base := "/containers/" + fakeID
	note := func(what string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.order = append(s.order, what)
	}
	ended := make(chan struct{})
	s.handle("POST "+base+"/attach", func(w http.ResponseWriter, _ *http.Request) {
		note("attach")
		conn, early := takeOver(w)
		defer conn.Close()
		<-s.started
		s.script(io.MultiReader(early, conn), conn)
		close(ended)
	})
	s.handle("POST "+base+"/wait", func(w http.ResponseWriter, r *http.Request) {
		note("wait " + r.URL.Query().Get("condition"))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		select {
		case <-ended:
		case <-r.Context().Done():
			return
		}
		fmt.Fprintf(w, `{"StatusCode":%d}`, s.exit)
	})
	s.handle("POST "+base+"/start", func(w http.ResponseWriter, _ *http.Request) {
		note("start")
		if s.startIs != nil {
			s.startIs(w)
			return
		}
		close(s.started)
		w.WriteHeader(204)
	})
	return s
}

func TestRunRegistersBeforeItStarts(t *testing.T) {
	s := newScripted(t)
	o := s.berth("", nil, "run", "busybox")
	if o.code != 0 || o.out != "done\n" {
		t.Errorf("status %d, output %q, errors %q", o.code, o.out, o.err)
	}
	if len(s.order) != 3 || s.order[2] != "start" {
		t.Errorf("the order was %q", s.order)
	}
	if !strings.Contains(strings.Join(s.order, ","), "wait next-exit") {
		t.Errorf("waited wrongly: %q", s.order)
	}
}

func TestRunWithRmWaitsForTheRemoval(t *testing.T) {
	s := newScripted(t)
	s.berth("", nil, "run", "--rm", "busybox")
	if !strings.Contains(strings.Join(s.order, ","), "wait removed") {
		t.Errorf("the order was %q", s.order)
	}
	if body := s.took("POST", "/containers/create")[0].body; !strings.Contains(body, `"AutoRemove":true`) {
		t.Errorf("asked for %s", body)
	}
}

func TestRunEndsWithTheContainersStatus(t *testing.T) {
	for _, code := range []int{0, 1, 42, 126, 127, 137, 255} {
		s := newScripted(t)
		s.exit = code
		if o := s.berth("", nil, "run", "busybox"); o.code != code || o.err != "" {
			t.Errorf("container's %d became %d, %q", code, o.code, o.err)
		}
	}
}

func TestRunKeepsTheStreamsApart(t *testing.T) {
	s := newScripted(t)
	s.script = func(_ io.Reader, out io.Writer) {
		io.WriteString(out, frame(1, "a\n")+frame(2, "b\n")+frame(1, "c\n"))
	}
	if o := s.berth("", nil, "run", "busybox"); o.out != "a\nc\n" || o.err != "b\n" {
		t.Errorf("output %q, errors %q", o.out, o.err)
	}
}

// What a container writes may arrive after the wait answered; none of it may be lost.
func TestRunDrainsTheOutput(t *testing.T) {
	s := newScripted(t)
	line := strings.Repeat("x", 99) + "\n"
	s.script = func(_ io.Reader, out io.Writer) {
		for range 20000 {
			io.WriteString(out, frame(1, line))
		}
	}
	if o := s.berth("", nil, "run", "busybox"); len(o.out) != 20000*100 {
		t.Errorf("%d bytes arrived", len(o.out))
	}
}

func TestRunHandsStdinThroughAndClosesIt(t *testing.T) {
	s := newScripted(t)
	input := strings.Repeat("0123456789", 100_000)
	s.script = func(in io.Reader, out io.Writer) {
		data, _ := io.ReadAll(in) // ends with the half-close
		io.WriteString(out, frame(1, fmt.Sprintf("%d bytes\n", len(data))))
	}
	if o := s.berth(input, nil, "run", "-i", "busybox", "wc", "-c"); o.out != "1000000 bytes\n" {
		t.Errorf("output %q, errors %q", o.out, o.err)
	}
	body := s.took("POST", "/containers/create")[0].body
	for _, want := range []string{`"OpenStdin":true`, `"StdinOnce":true`, `"AttachStdin":true`} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is missing in %s", want, body)
		}
	}
}

func TestRunWithoutStdinLeavesItAlone(t *testing.T) {
	s := newScripted(t)
	r, w := io.Pipe() // never ends: a run that read it would not end either
	defer w.Close()
	var out bytes.Buffer
	code := Main(t.Context(), IO{In: r, Out: &out, Err: io.Discard, Env: []string{"DOCKER_HOST=" + s.host}}, Build{},
		[]string{"run", "busybox"})
	if code != 0 || out.String() != "done\n" {
		t.Errorf("status %d, output %q", code, out.String())
	}
}

func TestRunTellsWhyTheStartFailed(t *testing.T) {
	for text, code := range map[string]int{
		`failed to create task: exec: "nosuch": executable file not found in $PATH`:  127,
		`exec: "/x": stat /x: no such file or directory`:                             127,
		`exec: "/etc": permission denied`:                                            126,
		`exec: "/etc": is a directory`:                                               126,
		`exec /data: exec format error`:                                              126,
		`driver failed programming external connectivity: port is already allocated`: 125,
	} {
		s := newScripted(t)
		s.startIs = func(w http.ResponseWriter) { reply(w, 400, map[string]string{"message": text}) }
		o := s.berth("", nil, "run", "busybox")
		want := "berth: Error response from daemon: " + text + "\n\nRun 'berth run --help' for more information\n"
		if o.code != code || o.err != want {
			t.Errorf("%q: status %d instead of %d, %q", text, o.code, code, o.err)
		}
	}
}

func TestRunPullsTheImageThatIsMissing(t *testing.T) {
	s := newScripted(t)
	tries := 0
	s.handle("POST /containers/create", func(w http.ResponseWriter, _ *http.Request) {
		if tries++; tries == 1 {
			reply(w, 404, map[string]string{"message": "No such image: busybox:latest"})
			return
		}
		reply(w, 201, map[string]string{"Id": fakeID})
	})
	s.handle("POST /images/create", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"status":"Pulling from library/busybox","id":"latest"}
{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"abc"}
{"status":"Pull complete","progressDetail":{},"id":"abc"}
{"status":"Status: Downloaded newer image for busybox:latest"}
`)
	})
	o := s.berth("", nil, "run", "busybox")
	want := "Unable to find image 'busybox:latest' locally\nlatest: Pulling from library/busybox\nabc: Pull complete\n" +
		"Status: Downloaded newer image for busybox:latest\n"
	if o.code != 0 || o.out != "done\n" || o.err != want {
		t.Errorf("status %d, output %q, errors\n%s", o.code, o.out, o.err)
	}
	q := s.took("POST", "/images/create")[0].query
	if q.Get("fromImage") != "docker.io/library/busybox" || q.Get("tag") != "latest" {
		t.Errorf("pulled %v", q)
	}
}

func TestRunPullFlag(t *testing.T) {
	missing := func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 404, map[string]string{"message": "No such image: busybox:latest"})
	}
	s := newScripted(t)
	s.handle("POST /containers/create", missing)
	o := s.berth("", nil, "run", "--pull", "never", "busybox")
	if o.code != 125 || len(s.took("POST", "/images/create")) > 0 || !strings.Contains(o.err, "No such image") {
		t.Errorf("never: status %d, errors %q", o.code, o.err)
	}
	s = newScripted(t)
	s.handle("POST /images/create", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"status":"Status: Image is up to date"}`+"\n")
	})
	o = s.berth("", nil, "run", "--pull=always", "-q", "busybox")
	if o.code != 0 || o.err != "" || len(s.took("POST", "/images/create")) != 1 {
		t.Errorf("always: status %d, errors %q", o.code, o.err)
	}
}

func TestRunReportsAFailedPull(t *testing.T) {
	s := newScripted(t)
	s.handle("POST /containers/create", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 404, map[string]string{"message": "No such image: busybox:latest"})
	})
	s.handle("POST /images/create", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"errorDetail":{"message":"toomanyrequests: slow down"},"error":"toomanyrequests: slow down"}`)
	})
	o := s.berth("", nil, "run", "busybox")
	if o.code != 125 || !strings.Contains(o.err, "berth: toomanyrequests: slow down\n") {
		t.Errorf("status %d, errors %q", o.code, o.err)
	}
}

func TestRunWritesTheCIDFileOnceItHasAnID(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cid")
	s := newScripted(t)
	if o := s.berth("", nil, "run", "--cidfile", path, "busybox"); o.code != 0 {
		t.Fatalf("status %d, errors %q", o.code, o.err)
	}
	if data, _ := os.ReadFile(path); string(data) != fakeID {
		t.Errorf("the file holds %q", data)
	}
	if o := s.berth("", nil, "run", "--cidfile", path, "busybox"); o.code != 125 || !strings.Contains(o.err, "container ID file found") {
		t.Errorf("a second time: status %d, errors %q", o.code, o.err)
	}
	s.answer("POST /containers/create", 409, map[string]string{"message": "Conflict."})
	other := filepath.Join(dir, "other")
	s.berth("", nil, "run", "--cidfile", other, "busybox")
	if exists(other) {
		t.Error("a file without an ID was left behind")
	}
}

func TestRunPassesSignalsOn(t *testing.T) {
	s := newScripted(t)
	killed := make(chan string, 1)
	s.handle("POST /containers/"+fakeID+"/kill", func(w http.ResponseWriter, r *http.Request) {
		killed <- r.URL.Query().Get("signal")
		w.WriteHeader(204)
	})
	s.exit = 143
	s.script = func(_ io.Reader, out io.Writer) {
		syscall.Kill(os.Getpid(), syscall.SIGTERM)
		select {
		case name := <-killed:
			io.WriteString(out, frame(1, name+"\n"))
		case <-time.After(2 * time.Minute):
		}
	}
	if o := s.berth("", nil, "run", "busybox"); o.out != "SIGTERM\n" || o.code != 143 {
		t.Errorf("status %d, output %q, errors %q", o.code, o.out, o.err)
	}
}

func TestRunDetachedPrintsTheID(t *testing.T) {
	s := newScripted(t)
	o := s.berth("", nil, "run", "-d", "-i", "busybox")
	if o.code != 0 || o.out != fakeID+"\n" {
		t.Errorf("status %d, output %q, errors %q", o.code, o.out, o.err)
	}
	if len(s.order) != 1 {
		t.Errorf("asked for %q", s.order)
	}
	body := s.took("POST", "/containers/create")[0].body
	if !strings.Contains(body, `"OpenStdin":true`) || strings.Contains(body, `"AttachStdin":true`) ||
		strings.Contains(body, `"StdinOnce":true`) {
		t.Errorf("asked for %s", body)
	}
}

func TestRunPrintsTheServersWarnings(t *testing.T) {
	s := newScripted(t)
	s.answer("POST /containers/create", 201, map[string]any{"Id": fakeID, "Warnings": []string{"no swap"}})
	if o := s.berth("", nil, "run", "busybox"); o.err != "WARNING: no swap\n" {
		t.Errorf("errors %q", o.err)
	}
	s = newScripted(t)
	s.answer("POST /containers/create", 201, map[string]any{"Id": fakeID, "Warnings": []string{"no swap"}})
	if o := s.berth("", nil, "-l", "error", "run", "busybox"); o.err != "" {
		t.Errorf("errors %q although only errors were asked for", o.err)
	}
}

func TestRunGivesTheConfiguredProxiesToTheContainer(t *testing.T) {
	s := newScripted(t)
	dir := t.TempDir()
	config := `{"proxies":{"default":{"httpProxy":"http://proxy:3128","noProxy":"localhost"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.berth("", []string{"DOCKER_CONFIG=" + dir}, "run", "-e", "http_proxy=mine", "busybox")
	var body struct{ Env []string }
	json.Unmarshal([]byte(s.took("POST", "/containers/create")[0].body), &body)
	want := []string{"HTTP_PROXY=http://proxy:3128", "NO_PROXY=localhost", "no_proxy=localhost", "http_proxy=mine"}
	if fmt.Sprint(body.Env) != fmt.Sprint(want) {
		t.Errorf("environment %q", body.Env)
	}
}

func TestRunGivesTheSocketAndCredentialsWhenAsked(t *testing.T) {
	s := newScripted(t)
	dir := t.TempDir()
	config := `{"auths":{"r.example.com":{"auth":"dTpw"}}}` // u:p
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	o := s.berth("", []string{"DOCKER_CONFIG=" + dir}, "run", "--use-api-socket", "busybox")
	if o.code != 0 {
		t.Fatalf("status %d, errors %q", o.code, o.err)
	}
	body := s.took("POST", "/containers/create")[0].body
	if !strings.Contains(body, ":/var/run/docker.sock") || !strings.Contains(body, "DOCKER_CONFIG=/run/secrets/docker") {
		t.Errorf("asked for %s", body)
	}
	sent := s.took("PUT", "/archive")
	if len(sent) != 1 || !strings.Contains(sent[0].body, "run/secrets/docker/config.json") ||
		!strings.Contains(sent[0].body, `"r.example.com":{"auth":"dTpw"}`) {
		t.Errorf("sent %d archives", len(sent))
	}
}

func TestAConnectionThatIsRefusedIsOneSentence(t *testing.T) {
	var errs bytes.Buffer
	code := Main(context.Background(), IO{In: strings.NewReader(""), Out: io.Discard, Err: &errs,
		Env: []string{"DOCKER_HOST=unix:///nowhere.sock"}}, Build{}, []string{"run", "busybox"})
	want := "berth: Cannot connect to the Docker daemon at unix:///nowhere.sock. Is the docker daemon running?\n\n" +
		"Run 'berth run --help' for more information\n"
	if code != 125 || errs.String() != want {
		t.Errorf("status %d, errors %q", code, errs.String())
	}
}

func TestTheDaemonOfThisMachineIsNotAskedForItsVersion(t *testing.T) {
	s := newFakeServer(t)
	pings := 0
	s.handle("GET /_ping", func(http.ResponseWriter, *http.Request) { pings++ })
	var out bytes.Buffer
	code := Main(t.Context(), IO{In: strings.NewReader(""), Out: &out, Err: io.Discard, Env: []string{"BERTH_HOST=" + s.host}},
		Build{}, []string{"ps", "-q"})
	if code != 0 {
		t.Errorf("status %d", code)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) != 1 || pings > 0 {
		t.Errorf("%d requests, %d pings", len(s.requests), pings)
	}
}

func TestHostIsChosenInOrder(t *testing.T) {
	for _, c := range []struct {
		flag, berth, docker, want string
		named                     bool
	}{
		{"", "", "", DefaultHost, false},
		{"", "", "unix:///d", "unix:///d", true},
		{"", "unix:///b", "unix:///d", "unix:///b", true},
		{"/f", "unix:///b", "unix:///d", "unix:///f", true},
		{"tcp://h", "", "", "tcp://h:2375", true},
		{"h:99", "", "", "tcp://h:99", true},
		{"tcp://[::1]", "", "", "tcp://[::1]:2375", true},
	} {
		a := &app{env: map[string]string{"BERTH_HOST": c.berth, "DOCKER_HOST": c.docker}}
		if c.flag != "" {
			a.global.hosts = []string{c.flag}
		}
		if host, named := a.host(); host != c.want || named != c.named {
			t.Errorf("%+v: %s, %v", c, host, named)
		}
	}
}
