package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const fakeID = "4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339cabcd"

// fakeServer is an API server that answers everything with made-up data and keeps what it was asked.
type fakeServer struct {
	t    *testing.T
	host string

	mu       sync.Mutex // guards what follows
	requests []fakeRequest
	handlers map[string]http.HandlerFunc // by "METHOD /path", wins over the made-up data
}

type fakeRequest struct {
	method, path string
	query        url.Values
	body         string
	header       http.Header
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth-cli-")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeServer{t: t, host: "unix://" + path, handlers: map[string]http.HandlerFunc{}}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: s}}
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		os.RemoveAll(dir)
	})
	return s
}

func (s *fakeServer) handle(pattern string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[pattern] = h
}

// answer makes the server give one JSON document.
func (s *fakeServer) answer(pattern string, status int, body any) {
	s.handle(pattern, func(w http.ResponseWriter, _ *http.Request) { reply(w, status, body) })
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

// took returns the requests of a kind.
func (s *fakeServer) took(method, pathEnd string) (list []fakeRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if r.method == method && strings.HasSuffix(r.path, pathEnd) {
			list = append(list, r)
		}
	}
	return list
}

func (s *fakeServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

var versionPrefix = regexp.MustCompile(`^/v1\.\d+`)

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := versionPrefix.ReplaceAllString(r.URL.Path, "")
	w.Header().Set("Api-Version", "1.55")
	w.Header().Set("Ostype", "linux")
	if path == "/_ping" {
		return
	}
	var body []byte
	if r.ContentLength >= 0 || r.Method == http.MethodPut {
		body, _ = io.ReadAll(r.Body)
	}
	s.mu.Lock()
	s.requests = append(s.requests, fakeRequest{r.Method, path, r.URL.Query(), string(body), r.Header.Clone()})
	h := s.handlers[r.Method+" "+path]
	s.mu.Unlock()
	if h != nil {
		h(w, r)
		return
	}
	s.madeUp(w, r, path)
}

func (s *fakeServer) madeUp(w http.ResponseWriter, r *http.Request, path string) {
	year := int64(3600 * 24 * 366)
	now := time.Now().Unix()
	switch r.Method + " " + path {
	case "POST /containers/create":
		reply(w, 201, map[string]any{"Id": fakeID, "Warnings": []string{}})
	case "GET /containers/json":
		reply(w, 200, json.RawMessage(strings.NewReplacer("@T3", fmt.Sprint(now-3*year), "@T2", fmt.Sprint(now-2*year)).
			Replace(fakeContainers)))
	case "GET /images/json":
		reply(w, 200, json.RawMessage(strings.NewReplacer("@T3", fmt.Sprint(now-3*year), "@T2", fmt.Sprint(now-2*year)).
			Replace(fakeImages)))
	case "GET /networks":
		reply(w, 200, json.RawMessage(fakeNetworks))
	case "GET /volumes":
		reply(w, 200, json.RawMessage(`{"Volumes":`+fakeVolumes+`,"Warnings":null}`))
	case "GET /containers/web/json", "GET /containers/" + fakeID + "/json":
		reply(w, 200, json.RawMessage(fakeInspect))
	case "GET /images/busybox/history":
		reply(w, 200, json.RawMessage(strings.NewReplacer("@T3", fmt.Sprint(now-3*year), "@T2", fmt.Sprint(now-2*year)).
			Replace(fakeHistory)))
	case "GET /containers/web/changes":
		reply(w, 200, json.RawMessage(`[{"Kind":0,"Path":"/etc"},{"Kind":1,"Path":"/etc/new"},{"Kind":2,"Path":"/etc/motd"}]`))
	case "GET /containers/web/top":
		reply(w, 200, json.RawMessage(`{"Titles":["UID","PID","CMD"],"Processes":[["root","4242","sleep 1000"],["daemon","7","x"]]}`))
	case "GET /volumes/data":
		reply(w, 200, json.RawMessage(`{"CreatedAt":"2020-01-02T03:04:05Z","Driver":"local","Labels":null,"Mountpoint":"/v/data/_data","Name":"data","Options":null,"Scope":"local"}`))
	case "GET /networks/front":
		reply(w, 200, json.RawMessage(`{"Name":"front","Id":"f000000000000000000000000000000000000000000000000000000000000000","Created":"2020-01-02T03:04:05Z","Scope":"local","Driver":"bridge","EnableIPv4":true,"EnableIPv6":false,"IPAM":{"Driver":"default","Options":null,"Config":[{"Subnet":"10.1.0.0/16"}]},"Internal":false,"Attachable":false,"Ingress":false,"ConfigFrom":{"Network":""},"ConfigOnly":false,"Containers":{},"Options":{},"Labels":{}}`))
	case "GET /images/busybox/json":
		reply(w, 200, json.RawMessage(`{"Id":"sha256:1111111111111111111111111111111111111111111111111111111111111111","RepoTags":["busybox:latest"],"RepoDigests":[],"Created":"2020-01-02T03:04:05Z","Config":{"Cmd":["sh"],"Env":["PATH=/bin"]},"Architecture":"amd64","Os":"linux","Size":4262344,"RootFS":{"Type":"layers","Layers":["sha256:a"]},"Metadata":{"LastTagTime":"0001-01-01T00:00:00Z"}}`))
	case "POST /containers/prune":
		reply(w, 200, json.RawMessage(`{"ContainersDeleted":["aaa","bbb"],"SpaceReclaimed":1234567}`))
	case "POST /images/prune":
		reply(w, 200, json.RawMessage(`{"ImagesDeleted":[{"Untagged":"a:b"},{"Deleted":"sha256:22"}],"SpaceReclaimed":5000}`))
	case "POST /networks/prune":
		reply(w, 200, json.RawMessage(`{"NetworksDeleted":["n1"]}`))
	case "POST /volumes/prune":
		reply(w, 200, json.RawMessage(`{"VolumesDeleted":["v1","v2"],"SpaceReclaimed":77}`))
	case "POST /build/prune":
		reply(w, 200, json.RawMessage(`{"CachesDeleted":null,"SpaceReclaimed":0}`))
	case "DELETE /images/busybox":
		reply(w, 200, json.RawMessage(`[{"Untagged":"busybox:latest"},{"Deleted":"sha256:1111"}]`))
	case "POST /networks/create":
		reply(w, 201, json.RawMessage(`{"Id":"`+fakeID+`","Warning":""}`))
	case "POST /volumes/create":
		reply(w, 201, json.RawMessage(`{"Name":"data","Driver":"local"}`))
	case "POST /containers/web/update":
		reply(w, 200, json.RawMessage(`{"Warnings":["no swap here"]}`))
	case "POST /containers/web/wait", "POST /containers/" + fakeID + "/wait":
		reply(w, 200, json.RawMessage(`{"StatusCode":3}`))
	case "POST /containers/web/exec":
		reply(w, 201, map[string]string{"Id": "e1"})
	case "GET /exec/e1/json":
		reply(w, 200, json.RawMessage(`{"ID":"e1","Running":false,"ExitCode":5}`))
	case "POST /exec/e1/start":
		if strings.Contains(s.lastBody(), `"Detach":true`) {
			w.WriteHeader(200)
			return
		}
		hijackWith(w, frame(1, "out\n")+frame(2, "err\n"))
	case "POST /containers/" + fakeID + "/attach", "POST /containers/web/attach":
		hijackWith(w, frame(1, "hello\n")+frame(2, "warning\n")+frame(1, "bye\n"))
	case "GET /containers/" + fakeID + "/logs", "GET /containers/web/logs":
		io.WriteString(w, frame(1, "one\n")+frame(2, "two\n")+frame(1, "three\n"))
	case "GET /events":
		io.WriteString(w, fakeEvents)
	case "GET /version":
		reply(w, 200, json.RawMessage(fakeVersion))
	case "GET /system/df":
		reply(w, 200, json.RawMessage(fakeDf))
	case "GET /containers/web/stats":
		reply(w, 200, json.RawMessage(fakeStats))
	case "HEAD /containers/web/archive":
		stat := fmt.Sprintf(`{"name":"x","size":0,"mode":%d,"mtime":"2020-01-02T03:04:05Z","linkTarget":""}`, uint32(os.ModeDir|0o755))
		w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString([]byte(stat)))
	case "PUT /containers/web/archive", "PUT /containers/" + fakeID + "/archive":
	default:
		switch {
		case strings.Contains(path, "/missing"):
			reply(w, 404, map[string]string{"message": "No such container: missing"})
		case r.Method == "POST" || r.Method == "DELETE":
			w.WriteHeader(204)
		default:
			reply(w, 404, map[string]string{"message": "page not found: " + path})
		}
	}
}

func (s *fakeServer) lastBody() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[len(s.requests)-1].body
}

func frame(stream byte, text string) string {
	head := make([]byte, 8)
	head[0] = stream
	binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
	return string(head) + text
}

// hijack switches the protocol and returns the connection.
func takeOver(w http.ResponseWriter) (net.Conn, *bytes.Buffer) {
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n"+
		"Connection: Upgrade\r\nUpgrade: tcp\r\nApi-Version: 1.55\r\n\r\n")
	buffered := &bytes.Buffer{}
	if n := rw.Reader.Buffered(); n > 0 {
		b, _ := rw.Reader.Peek(n)
		buffered.Write(b)
	}
	return conn, buffered
}

func hijackWith(w http.ResponseWriter, text string) {
	conn, _ := takeOver(w)
	io.WriteString(conn, text)
	conn.Close()
}

// outcome is what a command line did to its surroundings.
type outcome struct {
	code     int
	out, err string
}

// berth runs a command line in this process.
func (s *fakeServer) berth(stdin string, env []string, args ...string) outcome {
	var out, errOut bytes.Buffer
	env = append([]string{"DOCKER_HOST=" + s.host, "HOME=" + s.t.TempDir()}, env...)
	code := Main(context.Background(), IO{In: strings.NewReader(stdin), Out: &out, Err: &errOut, Env: env},
		Build{Version: "1.2.3", Commit: "abc"}, args)
	return outcome{code, out.String(), errOut.String()}
}

// docker runs the same words with Docker's own client.
func (s *fakeServer) docker(stdin string, env []string, args ...string) outcome {
	var out, errOut bytes.Buffer
	cmd := exec.Command("docker", args...)
	cmd.Env = append([]string{"DOCKER_HOST=" + s.host, "HOME=" + s.t.TempDir(), "PATH=/usr/bin:/bin"}, env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	code := 0
	if err := cmd.Run(); err != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return outcome{code, out.String(), errOut.String()}
}

const fakeContainers = `[
{"Id":"` + fakeID + `","Names":["/web","/other/link"],"Image":"nginx:1.27","ImageID":"sha256:aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999","Command":"/docker-entrypoint.sh nginx -g 'daemon off;'","Created":@T3,"Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"PrivatePort":443,"Type":"tcp"},{"IP":"0.0.0.0","PrivatePort":9000,"PublicPort":9000,"Type":"tcp"},{"IP":"0.0.0.0","PrivatePort":9001,"PublicPort":9001,"Type":"tcp"},{"IP":"0.0.0.0","PrivatePort":9002,"PublicPort":9002,"Type":"udp"},{"PrivatePort":444,"Type":"tcp"}],"SizeRw":1095,"SizeRootFs":192000000,"Labels":{"com.example.tier":"front","b":"","a":"1"},"State":"running","Status":"Up 3 years","HostConfig":{"NetworkMode":"bridge"},"NetworkSettings":{"Networks":{"bridge":{"IPAMConfig":null}}},"Mounts":[{"Type":"volume","Name":"0123456789abcdef0123456789abcdef","Source":"/x","Destination":"/data","Driver":"local","Mode":"z","RW":true,"Propagation":""},{"Type":"bind","Source":"/srv/www/htdocs/very/long","Destination":"/www","Mode":"","RW":true,"Propagation":"rprivate"}]},
{"Id":"99887766554433221100ffeeddccbbaa99887766554433221100ffeeddccbbaa","Names":["/db"],"Image":"sha256:aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999","ImageID":"sha256:aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999","Command":"sleep \"1 000\"","Created":@T2,"Ports":[],"Labels":{},"State":"exited","Status":"Exited (0) 2 years ago","HostConfig":{"NetworkMode":"none"},"NetworkSettings":{"Networks":{"none":{}}},"Mounts":[]}
]`

const fakeImages = `[
{"Containers":-1,"Created":@T3,"Id":"sha256:1111111111111111111111111111111111111111111111111111111111111111","Labels":null,"ParentId":"","RepoDigests":["busybox@sha256:ab33eacc8251e3807b85bb6dba570e4698c3998eca6f0fc2ccb60575a563ea74"],"RepoTags":["busybox:latest","busybox:1.36"],"SharedSize":-1,"Size":4262344},
{"Containers":-1,"Created":@T3,"Id":"sha256:4444444444444444444444444444444444444444444444444444444444444444","Labels":null,"ParentId":"","RepoDigests":[],"RepoTags":["registry.example.com:5000/team/app:v1"],"SharedSize":-1,"Size":123456789},
{"Containers":-1,"Created":@T2,"Id":"sha256:2222222222222222222222222222222222222222222222222222222222222222","Labels":{},"ParentId":"","RepoDigests":[],"RepoTags":[],"SharedSize":-1,"Size":192000000},
{"Containers":-1,"Created":@T2,"Id":"sha256:3333333333333333333333333333333333333333333333333333333333333333","Labels":{},"ParentId":"","RepoDigests":["quay.io/x/y@sha256:cd33eacc8251e3807b85bb6dba570e4698c3998eca6f0fc2ccb60575a563ea74"],"RepoTags":[],"SharedSize":-1,"Size":7}
]`

const fakeNetworks = `[
{"Name":"front","Id":"f000000000000000000000000000000000000000000000000000000000000000","Created":"2020-01-02T03:04:05.000000006Z","Scope":"local","Driver":"bridge","EnableIPv6":false,"EnableIPv4":true,"IPAM":{"Driver":"default","Options":null,"Config":[]},"Internal":false,"Labels":{"x":"y"}},
{"Name":"bridge","Id":"b000000000000000000000000000000000000000000000000000000000000000","Created":"2020-01-02T03:04:05Z","Scope":"local","Driver":"bridge","EnableIPv6":false,"EnableIPv4":true,"Internal":true,"Labels":{}}
]`

const fakeVolumes = `[
{"CreatedAt":"2020-01-02T03:04:05Z","Driver":"local","Labels":{"k":"v"},"Mountpoint":"/v/web10/_data","Name":"web10","Options":null,"Scope":"local"},
{"CreatedAt":"2020-01-02T03:04:05Z","Driver":"local","Labels":null,"Mountpoint":"/v/data/_data","Name":"data","Options":null,"Scope":"local"}
]`

const fakeHistory = `[
{"Comment":"buildkit.dockerfile.v0","Created":@T2,"CreatedBy":"CMD [\"sh\"]","Id":"sha256:1111111111111111111111111111111111111111111111111111111111111111","Size":0,"Tags":["busybox:latest"]},
{"Comment":"","Created":@T3,"CreatedBy":"/bin/sh -c #(nop) ADD file:1234567890abcdef1234567890abcdef in / ","Id":"<missing>","Size":4262344,"Tags":null}
]`

const fakeInspect = `{"Id":"` + fakeID + `","Created":"2020-01-02T03:04:05.678Z","Path":"nginx","Args":["-g","daemon off;"],"State":{"Status":"running","Running":true,"Paused":false,"Restarting":false,"OOMKilled":false,"Dead":false,"Pid":4242,"ExitCode":0,"Error":"","StartedAt":"2020-01-02T03:04:06Z","FinishedAt":"0001-01-01T00:00:00Z"},"Image":"sha256:aaaa","Name":"/web","RestartCount":0,"Driver":"overlayfs","Platform":"linux","HostConfig":{"Binds":["/a:/b"],"NetworkMode":"bridge","PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},"Memory":1048576,"NanoCpus":500000000,"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"CpuShares":0},"Mounts":[{"Type":"bind","Source":"/a","Destination":"/b","Mode":"","RW":true,"Propagation":"rprivate"}],"Config":{"Hostname":"4c01","Env":["A=1","B=<2>"],"Cmd":["nginx"],"Image":"nginx","Labels":{"com.example.tier":"front"},"Tty":false},"NetworkSettings":{"SandboxID":"s","Ports":{"443/tcp":null,"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}]},"Networks":{"bridge":{"IPAddress":"172.17.0.2","Gateway":"172.17.0.1","IPPrefixLen":16,"MacAddress":"02:42:ac:11:00:02"}}}}`

const fakeEvents = `{"status":"start","id":"` + fakeID + `","from":"nginx","Type":"container","Action":"start","Actor":{"ID":"` + fakeID + `","Attributes":{"image":"nginx","name":"web","a":"b"}},"scope":"local","time":1600000000,"timeNano":1600000000123456789}
{"Type":"network","Action":"create","Actor":{"ID":"n1","Attributes":{"name":"front"}},"scope":"local","time":1600000001,"timeNano":1600000001000000000}
`

const fakeVersion = `{"Platform":{"Name":"Some Engine"},"Version":"29.0.0","ApiVersion":"1.55","MinAPIVersion":"1.40","Os":"linux","Arch":"amd64","KernelVersion":"6.18","GitCommit":"deadbee","GoVersion":"go1.26","BuildTime":"2026-01-02T03:04:05.000000000+00:00","Components":[{"Name":"Engine","Version":"29.0.0","Details":{"ApiVersion":"1.55","Arch":"amd64","BuildTime":"2026-01-02T03:04:05.000000000+00:00","Experimental":"false","GitCommit":"deadbee","GoVersion":"go1.26","KernelVersion":"6.18","MinAPIVersion":"1.40","Os":"linux"}},{"Name":"containerd","Version":"v2","Details":{"GitCommit":"c0ffee"}}]}`

const fakeDf = `{"LayersSize":9000000,"Images":[{"Containers":1,"Created":1600000000,"Id":"sha256:1111111111111111111111111111111111111111111111111111111111111111","Labels":null,"ParentId":"","RepoDigests":[],"RepoTags":["busybox:latest"],"SharedSize":0,"Size":9000000}],"Containers":[],"Volumes":[{"Name":"data","Driver":"local","Mountpoint":"/x","Scope":"local","Labels":null,"Options":null,"UsageData":{"RefCount":0,"Size":4096}}],"BuildCache":[],"ImageUsage":{"ActiveCount":1,"TotalCount":1,"TotalSize":9000000,"Reclaimable":0},"ContainerUsage":{},"VolumeUsage":{"TotalCount":1,"TotalSize":4096,"Reclaimable":4096},"BuildCacheUsage":{}}`

const fakeStats = `{"id":"` + fakeID + `","name":"/web","read":"2026-01-02T03:04:05Z","preread":"2026-01-02T03:04:04Z","pids_stats":{"current":7},"blkio_stats":{"io_service_bytes_recursive":[{"major":8,"minor":0,"op":"read","value":1234567},{"major":8,"minor":0,"op":"write","value":89}]},"num_procs":0,"cpu_stats":{"cpu_usage":{"total_usage":300000000},"system_cpu_usage":20000000000,"online_cpus":2},"precpu_stats":{"cpu_usage":{"total_usage":100000000},"system_cpu_usage":18000000000,"online_cpus":2},"memory_stats":{"usage":50000000,"limit":2000000000,"stats":{"inactive_file":10000000}},"networks":{"eth0":{"rx_bytes":1500,"tx_bytes":2500000}}}`
