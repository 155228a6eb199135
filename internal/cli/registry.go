package cli

import (
	"context"
	"fmt"
	"syscall"

	"github.com/spf13/cobra"
)

// registryRoot is where berth-registry keeps things, unless told otherwise.
const registryRoot = "/var/lib/berth-registry"

func newRegistryServe(a *app) *cobra.Command {
	var o struct{ listen, root, htpasswd, cert, key, mirror string }
	var remove, readOnly, insecure bool
	cmd := command("serve [OPTIONS]", "Be a registry, until interrupted", noArgs,
		func(context.Context, []string) error {
			args := []string{"serve", "--listen", o.listen, "--root", o.root, "--htpasswd", o.htpasswd,
				"--tls-cert", o.cert, "--tls-key", o.key, "--mirror", o.mirror,
				fmt.Sprintf("--allow-delete=%t", remove), fmt.Sprintf("--read-only=%t", readOnly),
				fmt.Sprintf("--insecure=%t", insecure)}
			return a.becomeRegistry(args)
		})
	cmd.Long = "Be a registry that docker, podman, skopeo and berth push to and pull from.\nIt stays in the foreground until it " +
		"is interrupted, needs no daemon and no container, and keeps its images below --root."
	f := cmd.Flags()
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
