package cli

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMain lets this program stand in for berthd: autostart starts it with a role in its environment.
func TestMain(m *testing.M) {
	if role := os.Getenv("BERTH_TEST_DAEMON"); role != "" {
		os.Exit(playDaemon(role))
	}
	os.Exit(m.Run())
}

func playDaemon(role string) int {
	path := os.Getenv("BERTH_TEST_SOCKET")
	if role == "dies" {
		fmt.Println("the data root is on fire")
		return 3
	}
	if f, err := os.OpenFile(os.Getenv("BERTH_TEST_STARTS"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		fmt.Fprintln(f, os.Getpid())
		f.Close()
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	notify, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	io.WriteString(notify, "STATUS=Opening the store")
	io.WriteString(notify, "STATUS=Listening\nREADY=1\n")
	stop := make(chan struct{})
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/stop-daemon"):
			close(stop)
		default:
			io.WriteString(w, "[]")
		}
	}))
	select {
	case <-stop:
	case <-time.After(10 * time.Minute): // the test died
	}
	return 0
}

// lonely is a command line of root that nobody told of a server.
type lonely struct {
	dir, socket, starts string
	env                 []string
}

func newLonely(t *testing.T, role string) *lonely {
	if os.Geteuid() != 0 {
		t.Skip("only root's command line starts the daemon")
	}
	dir, err := os.MkdirTemp("", "berth-auto-")
	if err != nil {
		t.Fatal(err)
	}
	l := &lonely{dir: dir, socket: filepath.Join(dir, "run", "berth.sock"), starts: filepath.Join(dir, "starts")}
	l.env = []string{"HOME=" + dir, "BERTH_TEST_DAEMON=" + role, "BERTH_TEST_SOCKET=" + l.socket, "BERTH_TEST_STARTS=" + l.starts}
	t.Cleanup(func() {
		if conn, err := net.Dial("unix", l.socket); err == nil {
			io.WriteString(conn, "GET /stop-daemon HTTP/1.0\r\n\r\n")
			conn.Close()
		}
		os.RemoveAll(dir)
	})
	return l
}

func (l *lonely) run(t *testing.T, more ...string) (int, string) {
	var errs bytes.Buffer
	code := Main(t.Context(), IO{In: strings.NewReader(""), Out: io.Discard, Err: &errs, Env: append(l.env, more...),
		Host: "unix://" + l.socket, Daemon: os.Args[0], LogDir: l.dir}, Build{}, []string{"ps"})
	return code, errs.String()
}

func TestTheDaemonIsStartedWhenNoneAnswers(t *testing.T) {
	l := newLonely(t, "ready")
	code, errs := l.run(t)
	if code != 0 || !strings.Contains(errs, "Started the daemon") {
		t.Fatalf("status %d, errors %q", code, errs)
	}
	if code, errs = l.run(t); code != 0 || errs != "" {
		t.Errorf("the second time: status %d, errors %q", code, errs)
	}
}

func TestManyCommandLinesStartOneDaemon(t *testing.T) {
	l := newLonely(t, "ready")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if code, errs := l.run(t); code != 0 {
				t.Errorf("status %d, errors %q", code, errs)
			}
		})
	}
	all.Wait()
	if data, _ := os.ReadFile(l.starts); strings.Count(string(data), "\n") != 1 {
		t.Errorf("started: %q", data)
	}
}

func TestADaemonThatDiesIsReportedWithItsLastWords(t *testing.T) {
	l := newLonely(t, "dies")
	code, errs := l.run(t)
	if code != 1 || !strings.Contains(errs, "ended at once (exit status 3)") || !strings.Contains(errs, "the data root is on fire") {
		t.Errorf("status %d, errors %q", code, errs)
	}
}

func TestTheDaemonIsNotStartedWhenThatIsTurnedOff(t *testing.T) {
	l := newLonely(t, "ready")
	code, errs := l.run(t, "BERTH_NO_AUTOSTART=1")
	if code != 1 || exists(l.starts) ||
		errs != "cannot connect to the daemon at unix://"+l.socket+". Is it running? Start it with: berthd\n" {
		t.Errorf("status %d, errors %q", code, errs)
	}
}

func TestADaemonThatIsNotInstalledIsSaidSo(t *testing.T) {
	l := newLonely(t, "ready")
	var errs bytes.Buffer
	code := Main(t.Context(), IO{In: strings.NewReader(""), Out: io.Discard, Err: &errs, Env: l.env, Host: "unix://" + l.socket},
		Build{}, []string{"ps"})
	if code != 1 || !strings.Contains(errs.String(), "there is no berthd beside") {
		t.Errorf("status %d, errors %q", code, errs.String())
	}
}

func TestANamedServerIsNeverStarted(t *testing.T) {
	l := newLonely(t, "ready")
	if code, _ := l.run(t, "DOCKER_HOST=unix://"+l.socket); code != 1 || exists(l.starts) {
		t.Errorf("status %d", code)
	}
}
