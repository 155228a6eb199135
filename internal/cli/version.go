package cli

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newVersion(a *app) *cobra.Command {
	var format string
	cmd := command("version [OPTIONS]", "Show the versions of the program and the daemon", noArgs,
		func(ctx context.Context, _ []string) error { return a.version(ctx, format) })
	cmd.Flags().StringVarP(&format, "format", "f", "", `How to print: "json" or a Go template`)
	return cmd
}

func (a *app) printVersionLine() error {
	fmt.Fprintf(a.Out, "Berth version %s, build %s\n", a.build.Version, a.build.Commit)
	return nil
}

// clientVersion and serverVersion are what a template of version sees.
type clientVersion struct {
	Platform   struct{ Name string } `json:",omitzero"`
	Version    string
	APIVersion string `json:"ApiVersion"`
	DefaultAPI string `json:"DefaultAPIVersion"`
	GitCommit  string
	GoVersion  string
	Os         string
	Arch       string
	BuildTime  string `json:",omitempty"`
	Context    string
}

func (a *app) version(ctx context.Context, format string) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	server, failure := api.ServerVersion(ctx, client.ServerVersionOptions{})
	me := clientVersion{Version: a.build.Version, APIVersion: api.ClientVersion(), DefaultAPI: apiVersion,
		GitCommit: a.build.Commit, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
		BuildTime: a.build.Time, Context: "default"}
	if format != "" {
		var s any
		if failure == nil {
			s = versionObject(server)
		}
		if err := a.printObject(format, map[string]any{"Client": me, "Server": s}); err != nil {
			return err
		}
		return failure
	}
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %-18s%s\n", name+":", value)
		}
	}
	b.WriteString("Client: Berth\n")
	line("Version", me.Version)
	line("API version", me.APIVersion)
	line("Go version", me.GoVersion)
	line("Git commit", me.GitCommit)
	line("Built", buildDate(me.BuildTime))
	line("OS/Arch", me.Os+"/"+me.Arch)
	if failure != nil {
		fmt.Fprint(a.Out, b.String())
		return failure
	}
	writeServer(&b, server)
	_, err = fmt.Fprint(a.Out, b.String())
	return err
}

func buildDate(s string) string {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.Format(time.ANSIC)
	}
	return s
}

func writeServer(b *strings.Builder, s client.ServerVersionResult) {
	name := s.Platform.Name
	if name != "" {
		name = " " + name
	}
	fmt.Fprintf(b, "\nServer:%s\n", name)
	for _, c := range s.Components {
		fmt.Fprintf(b, " %s:\n", c.Name)
		line := func(title, value string) {
			if value != "" {
				fmt.Fprintf(b, "  %-17s%s\n", title+":", value)
			}
		}
		line("Version", c.Version)
		if c.Name != "Engine" {
			line("GitCommit", c.Details["GitCommit"])
			continue
		}
		api := c.Details["ApiVersion"]
		if low := c.Details["MinAPIVersion"]; low != "" {
			api += " (minimum version " + low + ")"
		}
		line("API version", api)
		line("Go version", c.Details["GoVersion"])
		line("Git commit", c.Details["GitCommit"])
		line("Built", buildDate(c.Details["BuildTime"]))
		if c.Details["Os"] != "" {
			line("OS/Arch", c.Details["Os"]+"/"+c.Details["Arch"])
		}
		line("Experimental", c.Details["Experimental"])
	}
	if len(s.Components) == 0 {
		fmt.Fprintf(b, " Engine:\n  %-17s%s\n  %-17s%s (minimum version %s)\n  %-17s%s/%s\n", "Version:", s.Version,
			"API version:", s.APIVersion, s.MinAPIVersion, "OS/Arch:", s.Os, s.Arch)
	}
}

// versionObject gives a template the fields the API has beside those of the client library.
func versionObject(s client.ServerVersionResult) map[string]any {
	for i, c := range s.Components {
		if built, ok := c.Details["BuildTime"]; ok {
			s.Components[i].Details["BuildTime"] = buildDate(built)
		}
	}
	m := map[string]any{"Platform": s.Platform, "Version": s.Version, "ApiVersion": s.APIVersion,
		"MinAPIVersion": s.MinAPIVersion, "Os": s.Os, "Arch": s.Arch,
		"Components": s.Components}
	for _, c := range s.Components {
		if c.Name == "Engine" {
			for _, k := range []string{"GitCommit", "GoVersion", "KernelVersion", "BuildTime"} {
				if v := c.Details[k]; v != "" {
					m[k] = v
				}
			}
		}
	}
	return m
}
