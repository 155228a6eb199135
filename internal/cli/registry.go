package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

// registryRoot is where berth-registry keeps things, unless told otherwise.
const registryRoot = "/var/lib/berth-registry"

func newRegistryServe(a *app) *cobra.Command {
	var o struct{ listen, root, htpasswd, cert, key, mirror string }
	var remove, readOnly, insecure bool
	var detach bool
	cmd := command("serve [OPTIONS]", "Be a registry, until interrupted", noArgs,
		func(ctx context.Context, _ []string) error {
			if detach {
				return a.startRegistry(ctx, berthapi.RegistrySettings{Listen: o.listen, Root: o.root, Htpasswd: o.htpasswd, TLSCert: o.cert,
					TLSKey: o.key, Mirror: o.mirror, AllowDelete: remove, ReadOnly: readOnly, Insecure: insecure})
			}
			args := []string{"serve", "--listen", o.listen, "--root", o.root, "--htpasswd", o.htpasswd,
				"--tls-cert", o.cert, "--tls-key", o.key, "--mirror", o.mirror,
				fmt.Sprintf("--allow-delete=%t", remove), fmt.Sprintf("--read-only=%t", readOnly),
				fmt.Sprintf("--insecure=%t", insecure)}
			return a.becomeRegistry(args)
		})
	cmd.Long = "Be a registry that docker, podman, skopeo and berth push to and pull from.\nIt stays in the foreground until it " +
		"is interrupted, needs no daemon and no container, and keeps its images below --root.\nWith --detach the daemon keeps it " +
		"running, also after a restart of the machine, until \"berth registry stop\"; paths are then the daemon's machine's. " +
		"What \"registry\" in daemon.json says goes before that."
	f := cmd.Flags()
	f.BoolVarP(&detach, "detach", "d", false, "Have the daemon keep it running")
	f.StringVarP(&o.listen, "listen", "l", "127.0.0.1:5000", "`Address` and port to answer on")
	f.StringVar(&o.root, "root", registryRoot, "Directory of the images")
	f.StringVar(&o.htpasswd, "htpasswd", "", "Let in only the accounts in this `file` (made by htpasswd -B)")
	f.StringVar(&o.cert, "tls-cert", "", "Serve TLS with the certificate in this `file`")
	f.StringVar(&o.key, "tls-key", "", "Key of the certificate, a `file`")
	f.StringVar(&o.mirror, "mirror", "", "Be a pull-through cache of the registry at this `URL`")
	f.BoolVar(&remove, "allow-delete", false, "Let clients delete images")
	f.BoolVar(&readOnly, "read-only", false, "Refuse everything but pulls")
	f.BoolVar(&insecure, "insecure", false, "Answer other machines in clear text, if there is no certificate")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func newRegistryStatus(a *app) *cobra.Command {
	var format string
	cmd := command("status [OPTIONS]", "Show the registry that the daemon keeps running", noArgs,
		func(ctx context.Context, _ []string) error {
			var r berthapi.Registry
			if err := a.askOwn(ctx, http.MethodGet, berthapi.RegistryPath, nil, &r); err != nil {
				return err
			}
			if format != "" {
				return a.printObject(format, r)
			}
			_, err := io.WriteString(a.Out, drawRegistry(&r))
			return err
		})
	cmd.Flags().StringVarP(&format, "format", "f", "", `How to print: "json" or a Go template`)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func newRegistryStop(a *app) *cobra.Command {
	cmd := command("stop", "Stop the registry that the daemon keeps running", noArgs,
		func(ctx context.Context, _ []string) error {
			var r berthapi.Registry
			return a.askOwn(ctx, http.MethodDelete, berthapi.RegistryPath, nil, &r)
		})
	cmd.Long = "Stop the registry that the daemon keeps running. Its images stay where they are."
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// startRegistry has the daemon keep a registry running, and prints where it answers.
func (a *app) startRegistry(ctx context.Context, set berthapi.RegistrySettings) error {
	for _, path := range []*string{&set.Root, &set.Htpasswd, &set.TLSCert, &set.TLSKey} {
		if *path == "" {
			continue
		}
		whole, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = whole
	}
	var r berthapi.Registry
	if err := a.sendOwn(ctx, http.MethodPost, berthapi.RegistryPath, nil, set, &r); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.Out, r.URL)
	return err
}

// drawRegistry says how the daemon's registry is.
func drawRegistry(r *berthapi.Registry) string {
	if !r.On {
		return "The registry is off.\n"
	}
	var b strings.Builder
	if r.Running {
		fmt.Fprintf(&b, "The registry answers at %s, for %s (pid %d).\n", r.URL, units.HumanDuration(time.Since(r.Since)), r.Pid)
	} else {
		fmt.Fprintf(&b, "The registry at %s does not run and is started again: %s\n", r.URL, r.Failure)
	}
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-11s %s\n", name, value)
		}
	}
	line("images", r.Settings.Root)
	line("accounts", r.Settings.Htpasswd)
	line("cache of", r.Settings.Mirror)
	for what, on := range map[string]bool{"read-only": r.Settings.ReadOnly, "allow-delete": r.Settings.AllowDelete} {
		if on {
			line("may", map[string]string{"read-only": "only be pulled from", "allow-delete": "be deleted from"}[what])
		}
	}
	line("log", r.Log)
	if r.Fixed {
		line("set in", "daemon.json")
	}
	if r.Running && r.Restarts > 0 {
		line("restarts", fmt.Sprintf("%d, the last because %s", r.Restarts, r.Failure))
	}
	return b.String()
}

func newRegistryGC(a *app) *cobra.Command {
	var root string
	var untagged bool
	cmd := command("gc [OPTIONS]", "Remove from a registry's directory what no image needs", noArgs,
		func(context.Context, []string) error {
			return a.becomeRegistry([]string{"gc", "--root", root, fmt.Sprintf("--untagged=%t", untagged)})
		})
	cmd.Long = "Remove from a registry's directory what no image needs.\nThe registry must not be running meanwhile."
	f := cmd.Flags()
	f.StringVar(&root, "root", registryRoot, "Directory of the images")
	f.BoolVar(&untagged, "untagged", false, "Remove images that no tag leads to as well")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// becomeRegistry turns this process into berth-registry, so that signals and the exit code are its own. It returns only
// if that fails.
func (a *app) becomeRegistry(args []string) error {
	program, err := besideProgram("berth-registry")
	if err != nil {
		return fmt.Errorf("there is no berth-registry beside %s: install it there", program)
	}
	runtime.LockOSThread() // which becomes the program's first
	defer runtime.UnlockOSThread()
	linux.Usual()
	if err := syscall.Exec(program, append([]string{program}, args...), environ(a.env)); err != nil {
		return fmt.Errorf("executing %s: %w", program, err)
	}
	return nil
}

func environ(env map[string]string) []string {
	var out []string
	for name, value := range env {
		out = append(out, name+"="+value)
	}
	return out
}
