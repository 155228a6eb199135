package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// screen is a real terminal: a tmux server of our own with one window.
type screen struct {
	t     *testing.T
	sock  string
	wiped int
}

func newScreen(t *testing.T, d *harness.Daemon, c harness.Client) *screen {
	t.Helper()
	harness.Tool(t, "tmux")
	s := &screen{t: t, sock: filepath.Join(d.Dir, "tmux-"+c.Name)}
	cmd := exec.Command("tmux", "-f", "/dev/null", "-S", s.sock, "new-session", "-d", "-x", "100", "-y", "30",
		"env", "PS1=host$ ", "D="+c.Path, "/bin/sh")
	cmd.Env = append(d.Env(), "TERM=screen", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Dir = d.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tmux: %v: %s", err, out)
	}
	t.Cleanup(func() { s.tmux("kill-server") })
	s.sees("host$")
	return s
}

func (s *screen) tmux(args ...string) string {
	out, err := exec.Command("tmux", append([]string{"-S", s.sock}, args...)...).CombinedOutput()
	if err != nil && args[0] != "kill-server" {
		s.t.Fatalf("tmux %v: %v: %s", args, err, out)
	}
	return string(out)
}

// types sends text and then keys by tmux's names.
func (s *screen) types(text string, keys ...string) {
	s.t.Helper()
	if text != "" {
		s.tmux("send-keys", "-l", text)
	}
	if len(keys) > 0 {
		s.tmux(append([]string{"send-keys"}, keys...)...)
	}
}

// sees waits until the screen holds the text.
func (s *screen) sees(text string) {
	s.t.Helper()
	var last string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(30 * time.Millisecond) {
		if last = s.tmux("capture-pane", "-p"); strings.Contains(last, text) {
			return
		}
	}
	s.t.Fatalf("the screen does not show %q:\n%s", text, strings.TrimRight(last, "\n"))
}

// wipe empties the screen and waits until it is empty, so that what is looked for next is new.
func (s *screen) wipe() {
	s.t.Helper()
	s.wiped++
	s.types(fmt.Sprintf("clear; printf 'wiped%%s\\n' -%d", s.wiped), "Enter")
	s.sees(fmt.Sprintf("wiped-%d", s.wiped))
}

// sized is a line of shell that waits until the terminal has a size: clients tell it after the start.
func sized(size string) string {
	return `until [ "$(stty size)" = '` + size + `' ]; do sleep 0.1; done`
}

// TestRealTerminal: -it as a person uses it, with every client.
func TestRealTerminal(t *testing.T) {
	d := harness.Start(t)
	for _, c := range d.Clients() {
		t.Run(c.Name, func(t *testing.T) {
			s := newScreen(t, d, c)
			// What is typed while a client still has the terminal is the client's: each line says what follows it.
			s.types("$D run -it --rm --name term -h boat berth/box sh; echo left with $?", "Enter")
			s.sees("boat:/ #")
			s.types(sized("30 100")+"; echo it has $(stty size); tty", "Enter")
			s.sees("it has 30 100")
			s.sees("/dev/pts/0")
			s.tmux("resize-window", "-x", "90", "-y", "25")
			s.types(sized("25 90")+"; echo now $(stty size)", "Enter")
			s.sees("now 25 90")
			s.types("sleep 100", "Enter")
			harness.Eventually(t, time.Minute, "sleep runs, which the key is to interrupt", func() bool {
				return strings.Contains(d.ShellT(t, c, "$D top term").Out, "sleep 100")
			})
			s.types("", "C-c")
			s.types("echo code $?", "Enter")
			s.sees("code 130")
			s.types("exit 7", "Enter")
			s.sees("left with 7")

			// Detach with the keys, attach again, find the shell as it was.
			s.wipe()
			s.types("$D run -it --name det -h boat berth/box sh; echo detached $?", "Enter")
			s.sees("boat:/ #")
			s.types("X=kept", "Enter")
			s.types("", "C-p", "C-q")
			s.sees("detached 0")
			s.wipe()
			s.types("$D ps --format '{{.Names}} {{.Status}}'", "Enter")
			s.sees("det Up")
			s.wipe()
			s.types("$D attach det; echo attach left $?", "Enter")
			s.types("", "Enter")
			s.sees("boat:/ #")
			s.types("echo still $X", "Enter")
			s.sees("still kept")
			s.types("exit 5", "Enter")
			s.sees("attach left 5")
			d.ShellT(t, c, "$D rm det").Prints("det\n")

			// exec -it.
			d.ShellT(t, c, "$D run -d --name ex -h ship berth/box sleep 100").Exits(0)
			s.wipe()
			s.types("$D exec -it ex sh; echo exec left $?", "Enter")
			s.sees("ship:/ #")
			s.types("stty -echo; "+sized("25 90")+"; echo ready at $(stty size)", "Enter")
			s.sees("ready at 25 90")
			s.types("exit 4", "Enter")
			s.sees("exec left 4")
			d.ShellT(t, c, "$D rm -f ex").Exits(0)
		})
	}
}
