package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) addGlobalFlags(root *cobra.Command) {
	g := &a.global
	f := root.Flags()
	f.SortFlags = true
	f.StringVar(&g.configDir, "config", "", "Directory of the client's configuration `files` (default \"~/.docker\")")
	f.StringVarP(&g.context, "context", "c", "", "Not supported: name the server with --host instead")
	f.BoolVarP(&g.debug, "debug", "D", false, "Show every request to the server")
	f.VarP(&listValue{values: &g.hosts}, "host", "H", "Server to talk to (unix:///path or tcp://address:port)")
	f.StringVarP(&g.logLevel, "log-level", "l", "info", `What to report ("debug", "info", "warn", "error", "fatal")`)
	f.BoolVar(&g.tls, "tls", false, "Use TLS; implied by --tlsverify")
	f.StringVar(&g.tlsCA, "tlscacert", "", "Trust certificates signed by this `CA` (default \"~/.docker/ca.pem\")")
	f.StringVar(&g.tlsCert, "tlscert", "", "TLS `certificate` (default \"~/.docker/cert.pem\")")
	f.StringVar(&g.tlsKey, "tlskey", "", "TLS `key` (default \"~/.docker/key.pem\")")
	f.BoolVar(&g.tlsVerify, "tlsverify", false, "Use TLS and verify the server")
	f.BoolVarP(&g.version, "version", "v", false, "Print the version of the program and quit")
}

// checkGlobal looks at the program's own flags before any command runs.
func (a *app) checkGlobal(root, cmd *cobra.Command) error {
	g := &a.global
	if !slices.Contains([]string{"debug", "info", "warn", "error", "fatal"}, g.logLevel) {
		return &exitError{1, fmt.Sprintf("unable to parse logging level: %s: use debug, info, warn, error or fatal",
			g.logLevel)}
	}
	if g.logLevel == "debug" {
		g.debug = true
	}
	if g.context != "" && g.context != "default" {
		return &exitError{1, fmt.Sprintf("there are no contexts: name the server of %q with --host or DOCKER_HOST",
			g.context)}
	}
	if len(g.hosts) > 1 {
		return &exitError{1, "specify only one -H: " + strings.Join(g.hosts, ", ")}
	}
	g.tlsSet = root.Flags().Changed("tlsverify") || root.Flags().Changed("tls")
	return nil
}
