package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const id = "4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339cabcd"

// patience bounds the wait for what should come at once.
const patience = 2 * time.Minute

var program string // the built program; set once by TestMain

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "berth-cli-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "berth")
	build := exec.Command("go", "build", "-o", program, "../../cmd/berth")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// shell is an API server whose one container echoes what is typed, line by line, and ends with "exit N".
type shell struct {
	host string

	mu    sync.Mutex // guards calls
	calls []string
	told  chan string // every call, as it comes

	failStart string // what the start is refused with
}

func newShell(t *testing.T, failStart ...string) *shell {
	dir, err := os.MkdirTemp("", "berth-shell-")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &shell{host: "unix://" + path, told: make(chan string, 1000), failStart: strings.Join(failStart, "")}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: s.handler()}}
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		l.Close()
		os.RemoveAll(dir)
	})
	return s
}

func (s *shell) note(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	s.told <- call
}

// expect waits for a call that begins with a text.
func (s *shell) expect(t *testing.T, begin string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case call := <-s.told:
			if strings.HasPrefix(call, begin) {
				return call
			}
		case <-deadline:
			t.Fatalf("%q was not called; there were %q", begin, s.calls)
		}
	}
}

func (s *shell) handler() http.Handler {
	version := regexp.MustCompile(`^/v1\.\d+`)
	started, exited := make(chan struct{}), make(chan int, 2)
	answer := func(w http.ResponseWriter, status int, body string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.55")
		path := version.ReplaceAllString(r.URL.Path, "")
		switch path {
		case "/_ping":
		case "/containers/create":
			body, _ := io.ReadAll(r.Body)
			s.note("create " + string(body))
			answer(w, 201, `{"Id":"`+id+`"}`)
		case "/containers/" + id + "/attach", "/containers/web/attach":
			s.note("attach")
			conn, in := hijack(w)
			if path != "/containers/web/attach" {
				<-started
			}
			exited <- s.play(conn, in)
		case "/containers/" + id + "/wait", "/containers/web/wait":
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			select {
			case code := <-exited:
				fmt.Fprintf(w, `{"StatusCode":%d}`, code)
			case <-r.Context().Done():
			}
		case "/containers/" + id + "/start":
			if s.failStart != "" {
				answer(w, 400, `{"message":"`+s.failStart+`"}`)
				return
			}
			s.note("start")
			close(started)
			w.WriteHeader(204)
		case "/containers/" + id + "/resize", "/containers/web/resize", "/exec/e1/resize":
			s.note("resize " + r.URL.Query().Get("h") + "x" + r.URL.Query().Get("w"))
			w.WriteHeader(200)
		case "/containers/" + id + "/kill":
			s.note("kill " + r.URL.Query().Get("signal"))
			w.WriteHeader(204)
		case "/containers/web/json":
			answer(w, 200, `{"Id":"web","State":{"Status":"running","Running":true},"Config":{"Tty":true,"OpenStdin":true},"HostConfig":{}}`)
		case "/containers/web/exec":
			body, _ := io.ReadAll(r.Body)
			s.note("exec " + string(body))
			answer(w, 201, `{"Id":"e1"}`)
		case "/exec/e1/start":
			io.Copy(io.Discard, r.Body)
			conn, in := hijack(w)
			exited <- s.play(conn, in)
		case "/exec/e1/json":
			answer(w, 200, fmt.Sprintf(`{"ID":"e1","Running":false,"ExitCode":%d}`, <-exited))
		case "/images/create":
			io.WriteString(w, `{"status":"Pulling from library/busybox","id":"latest"}
{"status":"Pulling fs layer","progressDetail":{},"id":"aaa"}
{"status":"Pulling fs layer","progressDetail":{},"id":"bbb"}
{"status":"Downloading","progressDetail":{"current":512000,"total":1024000},"id":"aaa"}
{"status":"Pull complete","progressDetail":{},"id":"aaa"}
{"status":"Pull complete","progressDetail":{},"id":"bbb"}
{"status":"Status: Downloaded newer image for busybox:latest"}
`)
		case "/containers/json":
			answer(w, 200, `[{"Id":"`+id+`","Names":["/web"],"State":"running"}]`)
		case "/events":
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/containers/" + id + "/stats":
			for n := 1; n < 1000; n++ {
				if _, err := fmt.Fprintf(w, `{"id":"%s","name":"/web","read":"2026-01-02T03:04:05Z","pids_stats":{"current":%d}}`+"\n", id, n); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				select {
				case <-time.After(300 * time.Millisecond):
				case <-r.Context().Done():
					return
				}
			}
		case "/auth":
			body, _ := io.ReadAll(r.Body)
			s.note("auth " + string(body))
			answer(w, 200, `{"Status":"Login Succeeded"}`)
		default:
			answer(w, 404, `{"message":"page not found: `+path+`"}`)
		}
	})
}

func hijack(w http.ResponseWriter) (net.Conn, *bufio.Reader) {
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	return conn, rw.Reader
}

// play is the shell: a prompt, an echo of every byte, an answer to every line.
func (s *shell) play(conn net.Conn, in *bufio.Reader) int {
	defer conn.Close()
	io.WriteString(conn, "$ ")
	var line []byte
	for {
		c, err := in.ReadByte()
		if err != nil {
			return 0
		}
		switch c {
		case '\r':
			text := string(line)
			line = nil
			if rest, ok := strings.CutPrefix(text, "exit"); ok {
				io.WriteString(conn, "\r\nbye\r\n")
				code, _ := strconv.Atoi(strings.TrimSpace(rest))
				return code
			}
			io.WriteString(conn, "\r\nyou said <"+text+">\r\n$ ")
		default:
			line = append(line, c)
			fmt.Fprintf(conn, "[%02x]", c)
		}
	}
}

// person sits at a terminal.
type person struct {
	t      *testing.T
	master *os.File
	slave  *os.File
	cmd    *exec.Cmd
	before unix.Termios
	ended  chan int

	mu   sync.Mutex // guards seen
	seen bytes.Buffer
	more chan struct{}
}

// sit starts the program on a new terminal of 30 lines and 100 columns.
func sit(t *testing.T, s *shell, args ...string) *person {
	t.Helper()
	master, slave := openTerminal(t)
	p := &person{t: t, master: master, slave: slave, ended: make(chan int, 1), more: make(chan struct{}, 1)}
	p.resize(30, 100)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	p.before = *before
	p.cmd = exec.Command(program, args...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.Env = []string{"BERTH_HOST=" + s.host, "HOME=" + t.TempDir(), "PATH=/usr/bin:/bin"}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.look()
	go func() {
		p.cmd.Wait()
		p.ended <- p.cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		master.Close()
		slave.Close()
	})
	return p
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("there are no pseudo-terminals: %v", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "ptmx"), slave
}

func (p *person) look() {
	buf := make([]byte, 4096)
	for {
		n, err := p.master.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.seen.Write(buf[:n])
		p.mu.Unlock()
		select {
		case p.more <- struct{}{}:
		default:
		}
	}
}

func (p *person) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// see waits until the text is on the screen.
func (p *person) see(text string) {
	p.t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(p.text(), text) {
		select {
		case <-p.more:
		case <-deadline:
			p.t.Fatalf("%q did not appear; there is %q", text, p.text())
		}
	}
}

func (p *person) type_(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.master, text); err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) resize(rows, cols uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		p.t.Fatal(err)
	}
}

// end waits for the program's end and looks whether the terminal is as it was.
func (p *person) end(code int) {
	p.t.Helper()
	select {
	case got := <-p.ended:
		if got != code {
			p.t.Errorf("status %d instead of %d; the screen: %q", got, code, p.text())
		}
	case <-time.After(patience):
		p.t.Fatalf("it does not end; the screen: %q", p.text())
	}
	after, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	if *after != p.before {
		p.t.Errorf("the terminal was left changed: %+v, was %+v", *after, p.before)
	}
}

func TestAPersonCanUseAShellInAContainer(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "run", "-it", "busybox", "sh")
	p.see("$ ")
	p.type_("hi\r")
	p.see("you said <hi>")
	p.type_("exit 7\r")
	p.see("bye")
	p.end(7)
}

func TestTheContainersTerminalHasThePersonsSizeFromTheStart(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "run", "-it", "busybox")
	var body struct{ HostConfig struct{ ConsoleSize [2]int } }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(s.expect(t, "create "), "create ")), &body); err != nil {
		t.Fatal(err)
	}
	if body.HostConfig.ConsoleSize != [2]int{30, 100} {
		t.Errorf("the size was %v", body.HostConfig.ConsoleSize)
	}
	p.see("$ ")
	p.type_("exit\r")
	p.end(0)
}

func TestTheContainersTerminalFollowsThePersons(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "run", "-it", "busybox")
	p.see("$ ")
	s.expect(t, "resize 30x100")
	p.resize(50, 132)
	s.expect(t, "resize 50x132")
	p.resize(10, 20)
	s.expect(t, "resize 10x20")
	p.type_("exit\r")
	p.end(0)
}

func TestKeysGoToTheContainerAndNotToTheProgram(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "run", "-it", "busybox")
	p.see("$ ")
	p.type_("\x03\x1a\x1c\x04\t\x1b[A\n")
	p.see("[03][1a][1c][04][09][1b][5b][41][0a]")
	p.type_("\rexit\r")
	p.end(0)
}

func TestTheDetachKeysLeaveTheContainerRunning(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "run", "-it", "busybox")
	p.see("$ ")
	p.type_("a\x10")
	p.see("[61]")
	p.type_("\x11")
	p.see("read escape sequence")
	p.end(0)
	if strings.Contains(p.text(), "[10]") {
		t.Errorf("the container saw the keys: %q", p.text())
	}
}

func TestTheDetachKeysCanBeChosen(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "run", "-it", "--detach-keys", "ctrl-x,x", "busybox")
	p.see("$ ")
	p.type_("\x10\x11")
	p.see("[10][11]")
	p.type_("\x18x")
	p.see("read escape sequence")
	p.end(0)
}

func TestTheTerminalIsPutBackWhenTheStartFails(t *testing.T) {
	s := newShell(t, "executable file not found in $PATH")
	p := sit(t, s, "run", "-it", "busybox", "nosuch")
	p.see("executable file not found in $PATH")
	p.end(127)
}

func TestTheTerminalIsPutBackWhenTheServerGoesAway(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "exec", "-it", "web", "sh")
	p.see("$ ")
	p.type_("exit 9\r")
	p.end(9)
}

func TestExecHasATerminalOfTheRightSize(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "exec", "-it", "web", "sh")
	if call := s.expect(t, "exec "); !strings.Contains(call, `"ConsoleSize":[30,100]`) {
		t.Errorf("asked for %s", call)
	}
	p.see("$ ")
	p.resize(40, 90)
	s.expect(t, "resize 40x90")
	p.type_("exit 3\r")
	p.end(3)
}

func TestAttachMakesTheProgramDrawItselfAgain(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "attach", "web")
	s.expect(t, "resize 29x100")
	s.expect(t, "resize 30x100")
	p.see("$ ")
	p.type_("\x10\x11")
	p.see("read escape sequence")
	p.end(1)
}

func TestWithoutATerminalOfItsOwnSignalsAreForwarded(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "run", "busybox", "sleep", "1000")
	// The start comes after the program has taken over the signals.
	s.expect(t, "start")
	if !p.cooked() {
		t.Error("the terminal is raw although the container has none")
	}
	p.type_("\x03")
	if call := s.expect(t, "kill "); call != "kill SIGINT" {
		t.Errorf("called %q", call)
	}
}

func (p *person) cooked() bool {
	now, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	return err == nil && now.Lflag&unix.ICANON != 0
}

func TestAPullDrawsOneLineForEveryLayer(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "pull", "busybox")
	p.end(0)
	p.see("docker.io/library/busybox:latest")
	for _, want := range []string{"aaa: Downloading [====", "\x1b[2A\r\x1b[2Kaaa: Pull complete", "\x1b[1A\r\x1b[2Kbbb: Pull complete"} {
		if !strings.Contains(p.text(), want) {
			t.Errorf("%q is missing in %q", want, p.text())
		}
	}
}

func TestStatsDrawsOverItself(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "stats")
	p.see("web")
	p.see("\x1b[H")
	first := strings.Count(p.text(), "CONTAINER ID")
	deadline := time.After(patience)
	for strings.Count(p.text(), "CONTAINER ID") < first+3 {
		select {
		case <-p.more:
		case <-deadline:
			t.Fatalf("it is not drawn again: %q", p.text())
		}
	}
	p.type_("\x03")
	p.end(0)
}

func TestThePasswordIsNotShown(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "login", "r.example.com")
	p.see("Username: ")
	p.type_("me\n")
	p.see("Password: ")
	p.type_("secret\n")
	if call := s.expect(t, "auth "); !strings.Contains(call, `"username":"me"`) || !strings.Contains(call, `"password":"secret"`) {
		t.Errorf("sent %s", call)
	}
	p.see("Login Succeeded")
	p.end(0)
	if strings.Contains(p.text(), "secret") {
		t.Errorf("the screen shows it: %q", p.text())
	}
}

func TestPruneAsksAndTakesNoForAnAnswer(t *testing.T) {
	s := newShell(t)
	p := sit(t, s, "container", "prune")
	p.see("Are you sure you want to continue? [y/N] ")
	p.type_("n\n")
	p.end(0)
}
