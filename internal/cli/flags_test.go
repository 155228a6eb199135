package cli

import (
	"context"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// notOurs are Docker's flags that have no place here, with the reason.
func notOurs() map[string]string {
	return map[string]string{
		"volume create --availability": "cluster", "volume create --group": "cluster", "volume create --limit-bytes": "cluster",
		"volume create --required-bytes": "cluster", "volume create --scope": "cluster", "volume create --secret": "cluster",
		"volume create --sharing": "cluster", "volume create --topology-preferred": "cluster", "volume create --topology-required": "cluster",
		"volume create --type": "cluster", "volume ls --cluster": "cluster",
	}
}

var flagLine = regexp.MustCompile(`^ +(?:-(\w), |    )--([\w-]+)(?: (\S+))?`)

// flagsIn reads the flags from a help text: "s,long type".
func flagsIn(help string) (list []string) {
	for line := range strings.Lines(help) {
		if m := flagLine.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil && strings.HasPrefix(line, "  ") {
			list = append(list, m[1]+",--"+m[2])
		}
	}
	return list
}

// paths are all commands.
func paths(cmd *cobra.Command, above string) (list []string) {
	for _, sub := range cmd.Commands() {
		if !slices.Contains([]string{"help", "completion"}, sub.Name()) {
			path := strings.TrimSpace(above + " " + sub.Name())
			list = append(append(list, path), paths(sub, path)...)
		}
	}
	return list
}

// Every flag of Docker's is a flag here, with the same letter.
func TestEveryFlagOfDockersIsThere(t *testing.T) {
	g := readGolden(t, testdata(t, "flags.golden"))
	root := newRoot(&app{IO: IO{In: strings.NewReader(""), Out: &strings.Builder{}, Err: &strings.Builder{}}, env: map[string]string{}}, nil)
	s := newFakeServer(t)
	for _, path := range paths(root, "") {
		args := append(strings.Fields(path), "--help")
		if *update {
			needDocker(t)
			help, err := exec.Command("docker", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("docker %s: %v: %s", path, err, help)
			}
			g.record(path, strings.Join(flagsIn(string(help)), "\n")+"\n")
		}
		cmd, _, err := root.Find(strings.Fields(path))
		if err != nil {
			t.Fatal(err)
		}
		for flag := range strings.FieldsSeq(g.parts[path]) {
			short, long, _ := strings.Cut(flag, ",--")
			f := cmd.Flags().Lookup(long)
			switch {
			case f == nil && notOurs()[path+" --"+long] == "":
				t.Errorf("%s --%s is missing", path, long)
			case f != nil && f.Shorthand != short:
				t.Errorf("%s --%s has the letter %q, Docker's is %q", path, long, f.Shorthand, short)
			}
		}
		if o := s.berth("", nil, args...); o.code != 0 || o.err != "" || !strings.HasPrefix(o.out, "Usage:  berth "+path) {
			t.Errorf("%s --help: status %d, output %q, errors %q", path, o.code, o.out, o.err)
		}
	}
	if *update {
		g.write(t)
	}
}

// The lazy tree must offer what the whole one does.
func TestEveryCommandIsFoundAlone(t *testing.T) {
	fresh := func(args []string) *cobra.Command {
		return newRoot(&app{IO: IO{In: strings.NewReader(""), Out: &strings.Builder{}, Err: &strings.Builder{}}, env: map[string]string{}}, args)
	}
	for _, path := range paths(fresh(nil), "") {
		words := strings.Fields(path)
		root := fresh(append([]string{"-H", "unix:///x", "-D", "--log-level=warn"}, words...))
		if n := len(root.Commands()); n != 1 {
			t.Errorf("%s: %d commands were built", path, n)
		}
		if cmd, _, err := root.Find(words); err != nil || cmd.CommandPath() != "berth "+path {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, args := range [][]string{{}, {"help"}, {"nosuch"}, {"--help"}, {"completion", "bash"}, {"__complete", "r"}} {
		if n := len(fresh(args).Commands()); n < 40 {
			t.Errorf("%q: %d commands were built", args, n)
		}
	}
}

func TestShellCompletion(t *testing.T) {
	s := newFakeServer(t)
	for line, want := range map[string]string{
		"ru":            "run\tCreate and run a new container from an image",
		"container sto": "stop\t",
		"run --netw":    "--network\t",
		"exec w":        "web\n",
		"rmi bus":       "busybox:latest\n",
		"network rm f":  "front\n",
		"volume rm d":   "data\n",
	} {
		o := s.berth("", nil, append([]string{"__complete"}, strings.Split(line, " ")...)...)
		if o.code != 0 || !strings.Contains(o.out, want) {
			t.Errorf("%q: status %d, %q", line, o.code, o.out)
		}
	}
	for _, name := range []string{"bash", "zsh", "fish"} {
		if o := s.berth("", nil, "completion", name); o.code != 0 || len(o.out) < 1000 {
			t.Errorf("%s: status %d, %d bytes, %q", name, o.code, len(o.out), o.err)
		}
	}
}

func TestCompletionStartsNoDaemon(t *testing.T) {
	l := newLonely(t, "ready")
	code := Main(context.Background(), IO{In: strings.NewReader(""), Out: &strings.Builder{}, Err: &strings.Builder{}, Env: l.env,
		Host: "unix://" + l.socket, Daemon: "/proc/self/exe", LogDir: l.dir}, Build{}, []string{"__complete", "exec", ""})
	if code != 0 || exists(l.starts) {
		t.Errorf("status %d", code)
	}
}
