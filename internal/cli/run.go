package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newRun(a *app) *cobra.Command {
	var c createFlags
	var r runFlags
	cmd := &cobra.Command{
		Use: "run [OPTIONS] IMAGE [COMMAND] [ARG...]", Short: "Create and run a new container from an image",
		Args: minArgs(1), DisableFlagsInUseLine: true, ValidArgsFunction: a.completeFirst(a.imageNames),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	c.add(f, a.lookup)
	f.BoolVarP(&r.detach, "detach", "d", false, "Run in the background and print the container's ID")
	f.BoolVar(&r.sigProxy, "sig-proxy", true, "Pass signals on to the process")
	f.StringVar(&r.detachKeys, "detach-keys", "", "Keys that detach from the container")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request, err := c.request(f, args, a.lookup)
		if err == nil {
			err = r.check(a, &c, request)
		}
		if err != nil {
			return a.runError("run", err, 125)
		}
		return a.run(cmd.Context(), &c, &r, request)
	}
	return cmd
}

type runFlags struct {
	detach, sigProxy bool
	detachKeys       string
}

func (r *runFlags) check(a *app, c *createFlags, q *createRequest) error {
	config := q.config
	if r.detach {
		if len(c.attach) > 0 {
			return &exitError{1, "conflicting options: cannot specify both --attach and --detach"}
		}
		config.AttachStdin, config.AttachStdout, config.AttachStderr, config.StdinOnce = false, false, false, false
		return nil
	}
	if _, isTerminal := terminal(a.In); config.AttachStdin && config.Tty && !isTerminal {
		return &exitError{1, "the input device is not a TTY"}
	}
	return nil
}

// runError is how run and create end when they could not do what they were asked.
func (a *app) runError(command string, err error, code int) error {
	var exit *exitError
	if errors.As(err, &exit) {
		return exit
	}
	return &exitError{code, fmt.Sprintf("berth: %v\n\nRun 'berth %s --help' for more information", plainError(err),
		command)}
}

// run is the life of a foreground container, seen from here:
//
//	create ─▶ attach ┐
//	          wait   ├─▶ start ─▶ output until its end ─▶ exit status
//	          (both registered before the start, so nothing can be missed)
func (a *app) run(ctx context.Context, c *createFlags, r *runFlags, q *createRequest) error {
	api, err := a.client()
	if err != nil {
		return a.runError("run", err, 125)
	}
	rows, cols := a.consoleSize()
	q.host.ConsoleSize = [2]uint{rows, cols}
	id, err := a.create(ctx, c, q)
	if err != nil {
		return a.runError("run", err, 125)
	}
	config := q.config
	attached := config.AttachStdin || config.AttachStdout || config.AttachStderr
	if !attached {
		if _, err := api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
			return a.runError("run", err, startCode(err))
		}
		fmt.Fprintln(a.Out, id)
		return nil
	}
	// The two registrations do not depend on each other, so they travel side by side; the signals join them.
	ready := make(chan struct{})
	if r.sigProxy {
		signals := newSignalProxy(a, id)
		go func() { signals.start(ctx); close(ready) }()
		defer func() { <-ready; signals.stop() }()
	} else {
		close(ready)
	}
	condition := container.WaitConditionNextExit
	if c.rm {
		condition = container.WaitConditionRemoved
	}
	waitCtx, cancelWait := context.WithCancel(ctx)
	defer cancelWait()
	waiting := make(chan client.ContainerWaitResult, 1)
	go func() {
		waiting <- api.ContainerWait(waitCtx, id, client.ContainerWaitOptions{Condition: condition})
	}()
	keys, err := a.detachKeys(r.detachKeys)
	if err != nil {
		return a.runError("run", err, 125)
	}
	h, err := a.hijack(ctx, "/containers/"+id+"/attach", attachQuery(config.AttachStdin, config.AttachStdout,
		config.AttachStderr, false, keys), nil)
	wait := <-waiting
	<-ready
	if err != nil {
		return a.runError("run", err, 125)
	}
	s := &session{h: h, tty: config.Tty, detachKeys: keys}
	if config.AttachStdin {
		s.stdin = a.In
	}
	if config.AttachStdout {
		s.out = a.Out
	}
	if config.AttachStderr {
		s.err = a.Err
	}
	return a.foreground(ctx, "run", id, s, wait, func() error {
		_, err := api.ContainerStart(ctx, id, client.ContainerStartOptions{})
		return err
	})
}

// foreground streams a container's input and output from its start to its end and returns its exit status as an error.
func (a *app) foreground(ctx context.Context, command, id string, s *session, wait client.ContainerWaitResult,
	start func() error) error {
	streamed := make(chan error, 1)
	go func() { streamed <- s.run(ctx) }()
	if err := start(); err != nil {
		s.h.conn.Close()
		<-streamed // the terminal is back as it was
		if command == "start" {
			return plainStart(err)
		}
		return a.runError(command, err, startCode(err))
	}
	if s.tty {
		stop := a.watchSize(true, func(rows, cols uint) {
			// A container that has ended has no window; nothing is lost.
			a.api.ContainerResize(ctx, id, client.ContainerResizeOptions{Height: rows, Width: cols})
		})
		defer stop()
	}
	if err := <-streamed; err != nil {
		if errors.Is(err, errDetached) {
			fmt.Fprintln(a.Err, errDetached)
			return nil
		}
		return err
	}
	select {
	case err := <-wait.Error:
		return &exitError{125, "berth: waiting for the container: " + plainError(err).Error()}
	case result := <-wait.Result:
		if result.Error != nil && result.Error.Message != "" {
			return &exitError{125, "berth: waiting for the container: " + result.Error.Message}
		}
		if result.StatusCode != 0 {
			return &exitError{int(result.StatusCode), ""}
		}
		return nil
	}
}

// startCode gives the status of a start that failed: 127 when there is no such command, 126 when it cannot be executed.
// The API has the reason in its sentence alone.
func startCode(err error) int {
	text := err.Error()
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		return 127
	case strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"),
		strings.Contains(text, "exec format error"):
		return 126
	}
	return 125
}

func attachQuery(stdin, stdout, stderr, logs bool, keys string) url.Values {
	q := url.Values{"stream": {"1"}}
	for name, on := range map[string]bool{"stdin": stdin, "stdout": stdout, "stderr": stderr, "logs": logs} {
		if on {
			q.Set(name, "1")
		}
	}
	if keys != "" {
		q.Set("detachKeys", keys)
	}
	return q
}

// create makes the container, pulling its image when that is missing.
func (a *app) create(ctx context.Context, c *createFlags, q *createRequest) (string, error) {
	api, err := a.client()
	if err != nil {
		return "", err
	}
	config, err := a.configFile()
	if err != nil {
		return "", err
	}
	host, _ := a.host()
	q.config.Env = append(config.proxyEnv(host, q.config.Env), q.config.Env...)
	cid, err := openCIDFile(c.cidfile)
	if err != nil {
		return "", err
	}
	defer cid.close()
	var credentials []byte
	if c.useAPISocket {
		if credentials, err = a.shareSocket(host, q); err != nil {
			return "", err
		}
	}
	if c.pull == "always" {
		if err := a.pullForCreate(ctx, c, q.config.Image); err != nil {
			return "", err
		}
	}
	a.warnOfDangers(q.host)
	options := client.ContainerCreateOptions{Config: q.config, HostConfig: q.host, NetworkingConfig: q.network,
		Platform: q.platform, Name: c.name}
	result, err := api.ContainerCreate(ctx, options)
	if errdefs.IsNotFound(err) && c.pull == "missing" && strings.Contains(err.Error(), "No such image") {
		fmt.Fprintf(a.Err, "Unable to find image '%s' locally\n", familiarTagged(q.config.Image))
		if err := a.pullForCreate(ctx, c, q.config.Image); err != nil {
			return "", err
		}
		result, err = api.ContainerCreate(ctx, options)
	}
	if err != nil {
		return "", err
	}
	for _, w := range result.Warnings {
		a.warn("WARNING: %s", w)
	}
	if credentials != nil {
		if err := a.copyCredentials(ctx, result.ID, credentials); err != nil {
			return result.ID, err
		}
	}
	return result.ID, cid.write(result.ID)
}

// warnOfDangers says what the server will do, but what is seldom meant.
func (a *app) warnOfDangers(host *container.HostConfig) {
	if host.OomKillDisable != nil && *host.OomKillDisable && host.Memory == 0 {
		a.warn("WARNING: Disabling the OOM killer on containers without setting a '-m/--memory' limit may be dangerous.")
	}
	for _, server := range host.DNS {
		if server.IsLoopback() {
			a.warn("WARNING: Localhost DNS setting (--dns=%s) may fail in containers.", server)
			return
		}
	}
}

func (a *app) pullForCreate(ctx context.Context, c *createFlags, image string) error {
	return a.pull(ctx, image, pullOptions{platform: c.platform, quiet: c.quiet, progress: a.Err})
}

// cidFile holds the file of --cidfile open from before the create, so that it is known to be writable, and removes it
// when nothing was written.
type cidFile struct {
	f       *os.File
	written bool
}

func openCIDFile(path string) (*cidFile, error) {
	if path == "" {
		return &cidFile{}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return &cidFile{f: f}, nil
}

func (c *cidFile) write(id string) error {
	if c.f == nil {
		return nil
	}
	if _, err := io.WriteString(c.f, id); err != nil {
		return fmt.Errorf("failed to write the container ID (%s) to file: %w", id, err)
	}
	c.written = true
	return nil
}

func (c *cidFile) close() {
	if c.f == nil {
		return
	}
	c.f.Close()
	if !c.written {
		os.Remove(c.f.Name())
	}
}

// detachKeys chooses between the flag and the configuration.
func (a *app) detachKeys(flag string) (string, error) {
	if flag != "" {
		return flag, checkDetachKeys(flag)
	}
	config, err := a.configFile()
	if err != nil {
		return "", err
	}
	return config.DetachKeys, checkDetachKeys(config.DetachKeys)
}

var errNoSocket = errors.New("flag --use-api-socket can only be used with unix sockets")

// shareSocket prepares --use-api-socket: the daemon's socket becomes a mount, and the credentials the person has are
// returned as the file that will be put into the container.
func (a *app) shareSocket(host string, q *createRequest) ([]byte, error) {
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return nil, fmt.Errorf("%w: the server is %s", errNoSocket, host)
	}
	q.host.Binds = append(q.host.Binds, path+":/var/run/docker.sock")
	config, err := a.configFile()
	if err != nil {
		return nil, err
	}
	all, err := config.allCredentials()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	q.config.Env = append(q.config.Env, "DOCKER_CONFIG=/run/secrets/docker")
	return credentialsArchive(all)
}

func (a *app) copyCredentials(ctx context.Context, id string, archive []byte) error {
	_, err := a.api.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/",
		Content: bytes.NewReader(archive)})
	return err
}
