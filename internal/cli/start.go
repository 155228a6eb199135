package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newStart(a *app) *cobra.Command {
	var attach, interactive bool
	var keys, checkpoint, checkpointDir string
	cmd := command("start [OPTIONS] CONTAINER [CONTAINER...]", "Start one or more stopped containers", minArgs(1),
		func(ctx context.Context, args []string) error {
			keys, err := a.detachKeys(keys)
			if err != nil {
				return err
			}
			o := client.ContainerStartOptions{CheckpointID: checkpoint, CheckpointDir: checkpointDir}
			if attach || interactive {
				if len(args) > 1 {
					return errors.New("you cannot start and attach multiple containers at once")
				}
				return a.startAttached(ctx, args[0], keys, interactive, o)
			}
			return a.startAll(ctx, args, o)
		})
	f := cmd.Flags()
	f.BoolVarP(&attach, "attach", "a", false, "Attach to the output and pass signals on")
	f.BoolVarP(&interactive, "interactive", "i", false, "Attach STDIN too")
	f.StringVar(&keys, "detach-keys", "", "Keys that detach from the container")
	f.StringVar(&checkpoint, "checkpoint", "", "Start from this checkpoint")
	f.StringVar(&checkpointDir, "checkpoint-dir", "", "Directory of the checkpoint")
	cmd.ValidArgsFunction = a.completeAll(a.containerNames(true))
	return cmd
}

func (a *app) startAll(ctx context.Context, names []string, o client.ContainerStartOptions) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	var failed []string
	for _, name := range names {
		if _, err := api.ContainerStart(ctx, name, o); err != nil {
			fmt.Fprintln(a.Err, plainError(err))
			failed = append(failed, name)
			continue
		}
		fmt.Fprintln(a.Out, name)
	}
	if len(failed) > 0 {
		return fmt.Errorf("Error: failed to start containers: %s", commaList(failed))
	}
	return nil
}

func commaList(words []string) string {
	s := ""
	for i, w := range words {
		if i > 0 {
			s += ", "
		}
		s += w
	}
	return s
}

func (a *app) startAttached(ctx context.Context, name, keys string, interactive bool,
	o client.ContainerStartOptions) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	info, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	c := info.Container
	if c.Config == nil || c.HostConfig == nil {
		return errors.New("the daemon's answer says nothing of the container's configuration")
	}
	stdin := interactive && c.Config.OpenStdin
	if _, isTerminal := terminal(a.In); stdin && c.Config.Tty && !isTerminal {
		return errors.New("the input device is not a TTY")
	}
	if !c.Config.Tty {
		signals := newSignalProxy(a, c.ID)
		signals.start(ctx)
		defer signals.stop()
	}
	condition := container.WaitConditionNextExit
	if c.HostConfig.AutoRemove {
		condition = container.WaitConditionRemoved
	}
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	h, err := a.hijack(ctx, "/containers/"+c.ID+"/attach", attachQuery(stdin, true, true, false, keys), nil)
	if err != nil {
		return err
	}
	wait := api.ContainerWait(waitCtx, c.ID, client.ContainerWaitOptions{Condition: condition})
	s := &session{h: h, out: a.Out, err: a.Err, tty: c.Config.Tty, detachKeys: keys}
	if stdin {
		s.stdin = a.In
	}
	return a.foreground(ctx, "start", c.ID, s, wait, func() error {
		_, err := api.ContainerStart(ctx, c.ID, o)
		return err
	})
}

// plainStart is a start that failed while attached.
func plainStart(err error) error {
	if code := startCode(err); code != 125 {
		return &exitError{code, plainError(err).Error()}
	}
	return err
}
