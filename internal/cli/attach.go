package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newAttach(a *app) *cobra.Command {
	var noStdin, sigProxy bool
	var keys string
	cmd := command("attach [OPTIONS] CONTAINER", "Join the input and output of a running container", exactArgs(1),
		func(ctx context.Context, args []string) error {
			keys, err := a.detachKeys(keys)
			if err != nil {
				return err
			}
			return a.attach(ctx, args[0], keys, noStdin, sigProxy)
		})
	f := cmd.Flags()
	f.StringVar(&keys, "detach-keys", "", "Keys that detach from the container")
	f.BoolVar(&noStdin, "no-stdin", false, "Do not attach STDIN")
	f.BoolVar(&sigProxy, "sig-proxy", true, "Pass signals on to the process")
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(false))
	return cmd
}

func (a *app) attach(ctx context.Context, name, keys string, noStdin, sigProxy bool) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	info, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	c := info.Container
	switch {
	case c.State == nil || c.Config == nil:
		return errors.New("the daemon's answer says nothing of the container's state")
	case !c.State.Running:
		return errors.New("cannot attach to a stopped container, start it first")
	case c.State.Paused:
		return errors.New("cannot attach to a paused container, unpause it first")
	case c.State.Restarting:
		return errors.New("cannot attach to a restarting container, wait until it is running")
	}
	stdin := !noStdin && c.Config.OpenStdin
	if _, isTerminal := terminal(a.In); stdin && c.Config.Tty && !isTerminal {
		return errors.New("the input device is not a TTY")
	}
	if sigProxy && !c.Config.Tty {
		signals := newSignalProxy(a, c.ID)
		signals.start(ctx)
		defer signals.stop()
	}
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait := api.ContainerWait(waitCtx, c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	h, err := a.hijack(ctx, "/containers/"+c.ID+"/attach", attachQuery(stdin, true, true, false, keys), nil)
	if err != nil {
		return err
	}
	s := &session{h: h, out: a.Out, err: a.Err, tty: c.Config.Tty, detachKeys: keys}
	if stdin {
		s.stdin = a.In
	}
	if s.tty {
		rows, cols := a.consoleSize()
		if rows > 1 {
			// A change of size makes the program in the terminal draw itself again for the newcomer.
			api.ContainerResize(ctx, c.ID, client.ContainerResizeOptions{Height: rows - 1, Width: cols})
		}
		stop := a.watchSize(true, func(rows, cols uint) {
			api.ContainerResize(ctx, c.ID, client.ContainerResizeOptions{Height: rows, Width: cols})
		})
		defer stop()
	}
	if err := s.run(ctx); err != nil {
		if errors.Is(err, errDetached) {
			return &exitError{1, fmt.Sprint(errDetached)}
		}
		return err
	}
	return exitOf(wait)
}

// exitOf turns the end of a container into the command's.
func exitOf(wait client.ContainerWaitResult) error {
	select {
	case err := <-wait.Error:
		return err
	case result := <-wait.Result:
		if result.Error != nil && result.Error.Message != "" {
			return errors.New(result.Error.Message)
		}
		if result.StatusCode != 0 {
			return &exitError{int(result.StatusCode), ""}
		}
		return nil
	}
}
