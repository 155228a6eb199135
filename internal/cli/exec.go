package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newExec(a *app) *cobra.Command {
	var o client.ExecCreateOptions
	var interactive, detach bool
	var envFiles, env []string
	cmd := command("exec [OPTIONS] CONTAINER COMMAND [ARG...]", "Execute a command in a running container", minArgs(2),
		func(ctx context.Context, args []string) error {
			var err error
			if o.Env, err = environment(envFiles, env, a.lookup); err != nil {
				return err
			}
			if o.DetachKeys, err = a.detachKeys(o.DetachKeys); err != nil {
				return err
			}
			o.Cmd = args[1:]
			if !detach {
				o.AttachStdin, o.AttachStdout, o.AttachStderr = interactive, true, true
			}
			return a.exec(ctx, args[0], o, detach)
		})
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&detach, "detach", "d", false, "Run the command in the background")
	f.StringVar(&o.DetachKeys, "detach-keys", "", "Keys that detach from the command")
	f.VarP(&listValue{&env, variable(a.lookup)}, "env", "e", "Set an environment variable")
	f.Var(&listValue{&envFiles, nil}, "env-file", "Set environment variables from a file")
	f.BoolVarP(&interactive, "interactive", "i", false, "Keep STDIN open")
	f.BoolVar(&o.Privileged, "privileged", false, "Give the command every right of the host's root")
	f.BoolVarP(&o.TTY, "tty", "t", false, "Give the command a terminal")
	f.StringVarP(&o.User, "user", "u", "", "User to run as (name|uid[:group|gid])")
	f.StringVarP(&o.WorkingDir, "workdir", "w", "", "Working directory inside the container")
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(false))
	return cmd
}

func (a *app) exec(ctx context.Context, name string, o client.ExecCreateOptions, detach bool) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	if _, isTerminal := terminal(a.In); o.AttachStdin && o.TTY && !isTerminal {
		return errors.New("the input device is not a TTY")
	}
	if o.TTY {
		o.ConsoleSize.Height, o.ConsoleSize.Width = a.consoleSize()
	}
	if detach {
		created, err := api.ExecCreate(ctx, name, o)
		if err != nil {
			return err
		}
		_, err = api.ExecStart(ctx, created.ID, client.ExecStartOptions{Detach: true, TTY: o.TTY,
			ConsoleSize: o.ConsoleSize})
		return execError(err)
	}
	id, h, err := a.execStream(ctx, api, name, o)
	if err != nil {
		return err
	}
	s := &session{h: h, out: a.Out, err: a.Err, tty: o.TTY, detachKeys: o.DetachKeys, framed: h.header.Get(berthapi.ExecHeader) != "" &&
		h.header.Get("Content-Type") == multiplexed}
	if o.AttachStdin {
		s.stdin = a.In
	}
	if o.TTY {
		// The first size went with the start.
		stop := a.watchSize(false, func(rows, cols uint) {
			api.ExecResize(ctx, id, client.ExecResizeOptions{Height: rows, Width: cols})
		})
		defer stop()
	}
	if err := s.run(ctx); err != nil {
		if errors.Is(err, errDetached) {
			fmt.Fprintln(a.Err, errDetached)
			return nil
		}
		return err
	}
	if s.exit == nil {
		result, err := api.ExecInspect(ctx, id, client.ExecInspectOptions{})
		if err != nil {
			return err
		}
		s.exit = &result.ExitCode
	}
	if *s.exit != 0 {
		return &exitError{*s.exit, ""}
	}
	return nil
}

// multiplexed is the media type of a stream in frames.
const multiplexed = "application/vnd.docker.multiplexed-stream"

// execStream starts an exec and takes over its stream: with Berth's one request, or with Docker's two where that is not known.
func (a *app) execStream(ctx context.Context, api *client.Client, name string, o client.ExecCreateOptions) (id string, h *hijacked,
	err error) {
	var size *[2]uint
	if o.ConsoleSize.Height != 0 {
		size = &[2]uint{o.ConsoleSize.Height, o.ConsoleSize.Width}
	}
	h, err = a.hijackOwn(ctx, berthapi.ExecPath(name), nil, container.ExecCreateRequest{User: o.User, Privileged: o.Privileged, Tty: o.TTY,
		ConsoleSize: size, AttachStdin: o.AttachStdin, AttachStdout: o.AttachStdout, AttachStderr: o.AttachStderr,
		DetachKeys: o.DetachKeys, Env: o.Env, WorkingDir: o.WorkingDir, Cmd: o.Cmd})
	if err == nil {
		return h.header.Get(berthapi.ExecHeader), h, nil
	}
	if refused := (*statusError)(nil); !errors.As(err, &refused) || refused.berth {
		return "", nil, execError(err)
	}
	created, err := api.ExecCreate(ctx, name, o)
	if err != nil {
		return "", nil, err
	}
	h, err = a.hijack(ctx, "/exec/"+created.ID+"/start", nil, container.ExecStartRequest{Tty: o.TTY, ConsoleSize: size})
	return created.ID, h, execError(err)
}

// execError gives a refused start the status a shell would give: not found is 127, not executable 126.
func execError(err error) error {
	if err == nil {
		return nil
	}
	if code := startCode(err); code != 125 {
		return &exitError{code, plainError(err).Error()}
	}
	return err
}
