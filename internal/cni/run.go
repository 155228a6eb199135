package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// runner runs plugins for libcni; it is its invoke.Exec.
type runner struct{ version.PluginDecoder }

const (
	outputBytes = 1 << 20  // of a result; the largest ones have some kilobytes
	noiseBytes  = 16 << 10 // of what is kept of a plugin's standard error
	saidChars   = 1000     // of what a plugin says that goes into an error
	// drainTime is how long the output of a plugin that has ended may be held open by what it started.
	drainTime = time.Second
)

// errOutput ends a plugin that prints without end.
var errOutput = fmt.Errorf("it printed more than %d bytes", outputBytes)

// bounded keeps the first bytes that are written to it.
type bounded struct {
	kept bytes.Buffer // with a name, for its own ReadFrom takes all there is
	max  int
	over func() // called at the first byte too many; nil: they are dropped
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.kept.Len(); len(p) > room {
		b.kept.Write(p[:max(room, 0)])
		if b.over != nil {
			b.over()
			return 0, errOutput
		}
		return len(p), nil
	}
	return b.kept.Write(p)
}

// ExecPlugin runs one plugin. It returns what the plugin printed, or a *types.Error where it ended with an error.
func (r *runner) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &bounded{max: outputBytes, over: func() { cancel(errOutput) }}
	noise := &bounded{max: noiseBytes}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = pluginEnv(environ)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), out, noise
	cmd.WaitDelay = drainTime
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// The signal of a parent's death is sent when the thread ends that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success():
		return out.kept.Bytes(), noHoles(out.kept.Bytes())
	case ctx.Err() != nil:
		return nil, ended(context.Cause(ctx))
	}
	return nil, pluginError(err, out.kept.Bytes(), noise.kept.Bytes())
}

// noHoles refuses lists with nothing in a place, which the library would look into.
func noHoles(result []byte) error {
	var lists struct{ Interfaces, IPs, Routes []json.RawMessage }
	if json.Unmarshal(result, &lists) != nil {
		return nil // no result, as the library will find
	}
	for _, x := range slices.Concat(lists.Interfaces, lists.IPs, lists.Routes) {
		if string(x) == "null" {
			return errors.New("its result has a hole in a list")
		}
	}
	return nil
}

func ended(cause error) error {
	if errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("it did not end in time and was killed: %w", cause)
	}
	return fmt.Errorf("it was killed: %w", cause)
}

// pluginEnv is what of the environment a plugin gets.
func pluginEnv(environ []string) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	for _, kv := range environ {
		if strings.HasPrefix(kv, "CNI_") {
			env = append(env, kv)
		}
	}
	return env
}

// pluginError is what a plugin says of its failure: on its standard output as the specification has it, or anyhow.
func pluginError(err error, out, noise []byte) error {
	var said types.Error
	if json.Unmarshal(out, &said) == nil && (said.Msg != "" || said.Details != "") {
		return &types.Error{Code: said.Code, Msg: plain([]byte(said.Msg)), Details: plain([]byte(said.Details))}
	}
	text := plain(noise)
	if text == "" {
		text = plain(out)
	}
	if text == "" {
		return fmt.Errorf("it ended with %q and said nothing", err.Error())
	}
	return fmt.Errorf("it ended with %q: %s", err.Error(), text)
}

// plain is what of a plugin's words goes into an error: one line, without what a terminal would obey.
func plain(text []byte) string {
	s := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(text), "?"))
	s = strings.Join(strings.Fields(s), " ")
	if chars := []rune(s); len(chars) > saidChars {
		s = string(chars[:saidChars]) + " …"
	}
	return s
}

// FindInPath finds a plugin by its type.
func (r *runner) FindInPath(plugin string, dirs []string) (string, error) {
	if plugin == "" || strings.ContainsAny(plugin, "/\x00") || plugin == "." || plugin == ".." {
		return "", fmt.Errorf("%q is not the name of a plugin", plain([]byte(plugin)))
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, plugin)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("no plugin %q in %s: install it there, or name the directory that has it in cni-bin-dir",
		plugin, strings.Join(dirs, ", "))
}
