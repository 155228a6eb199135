package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newInfo(a *app) *cobra.Command {
	var format string
	cmd := command("info [OPTIONS]", "Show what the daemon is and has", noArgs,
		func(ctx context.Context, _ []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			result, failure := api.Info(ctx, client.InfoOptions{})
			me := map[string]any{"Debug": a.global.debug, "Context": "default", "Version": a.build.Version}
			if format != "" {
				return a.formattedInfo(format, result.Info, me, failure)
			}
			var b strings.Builder
			fmt.Fprintf(&b, "Client: Berth\n Version:    %s\n Context:    default\n Debug Mode: %v\n\nServer:\n",
				a.build.Version, a.global.debug)
			if failure == nil {
				writeInfo(&b, &result.Info)
				var r berthapi.Registry
				if a.askOwn(ctx, http.MethodGet, berthapi.RegistryPath, nil, &r) == nil && r.On {
					state := ""
					if !r.Running {
						state = " (does not run)"
					}
					fmt.Fprintf(&b, " Registry Service: %s%s\n", r.URL, state)
				}
			}
			if _, err := io.WriteString(a.Out, b.String()); err != nil {
				return err
			}
			if failure != nil {
				return fmt.Errorf("ERROR: %w\nerrors pretty printing info", plainError(failure))
			}
			for _, w := range result.Info.Warnings {
				a.warn("%s", w)
			}
			return nil
		})
	cmd.Flags().StringVarP(&format, "format", "f", "", `How to print: "json" or a Go template`)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func (a *app) formattedInfo(format string, info system.Info, me map[string]any, failure error) error {
	v, err := objectOf(info)
	if err != nil {
		return err
	}
	o := shaped(v, reflect.TypeOf(info)).(*object)
	o.keys = append(o.keys, "ClientInfo")
	if o.values["ClientInfo"], err = objectOf(me); err != nil {
		return err
	}
	if failure != nil {
		text := plainError(failure).Error()
		o.keys, o.values["ServerErrors"] = append(o.keys, "ServerErrors"), []any{text}
		if err := a.printObject(format, o); err != nil {
			return err
		}
		return errors.New(text)
	}
	return a.printObject(format, o)
}

// infoWriter prints the lines of info. A line without a value is left out.
type infoWriter struct{ b *strings.Builder }

func (w infoWriter) line(name string, value any) { fmt.Fprintf(w.b, " %s: %v\n", name, value) }

func (w infoWriter) text(name, value string) {
	if value != "" {
		w.line(name, value)
	}
}

func writeInfo(b *strings.Builder, i *system.Info) {
	w := infoWriter{b}
	w.line("Containers", i.Containers)
	w.line(" Running", i.ContainersRunning)
	w.line(" Paused", i.ContainersPaused)
	w.line(" Stopped", i.ContainersStopped)
	w.line("Images", i.Images)
	w.text("Server Version", i.ServerVersion)
	w.text("Storage Driver", i.Driver)
	for _, p := range i.DriverStatus {
		w.line(" "+p[0], p[1])
	}
	w.text("Logging Driver", i.LoggingDriver)
	w.text("Cgroup Driver", i.CgroupDriver)
	w.text("Cgroup Version", i.CgroupVersion)
	w.b.WriteString(" Plugins:\n")
	w.line(" Volume", strings.Join(i.Plugins.Volume, " "))
	w.line(" Network", strings.Join(i.Plugins.Network, " "))
	if len(i.Plugins.Authorization) > 0 {
		w.line(" Authorization", strings.Join(i.Plugins.Authorization, " "))
	}
	w.line(" Log", strings.Join(i.Plugins.Log, " "))
	if len(i.CDISpecDirs) > 0 {
		w.b.WriteString(" CDI spec directories:\n")
		for _, d := range i.CDISpecDirs {
			fmt.Fprintf(w.b, "  %s\n", d)
		}
	}
	if s := string(i.Swarm.LocalNodeState); s != "" {
		w.line("Swarm", s)
	}
	if len(i.Runtimes) > 0 {
		w.line("Runtimes", strings.Join(sortedKeys(i.Runtimes), " "))
	}
	w.text("Default Runtime", i.DefaultRuntime)
	w.text("Init Binary", i.InitBinary)
	w.text("containerd version", i.ContainerdCommit.ID)
	w.text("runc version", i.RuncCommit.ID)
	w.text("init version", i.InitCommit.ID)
	w.security(i.SecurityOptions)
	writeHost(w, i)
}

// security prints each option's name with its further fields below it.
func (w infoWriter) security(options []string) {
	if len(options) == 0 {
		return
	}
	w.b.WriteString(" Security Options:\n")
	for _, o := range options {
		name, rest := "", []string(nil)
		for field := range strings.SplitSeq(o, ",") {
			if n, ok := strings.CutPrefix(field, "name="); ok {
				name = n
			} else {
				rest = append(rest, field)
			}
		}
		fmt.Fprintf(w.b, "  %s\n", name)
		for _, field := range rest {
			k, v, _ := strings.Cut(field, "=")
			if k == "profile" {
				k = "Profile"
			}
			fmt.Fprintf(w.b, "   %s: %s\n", k, v)
		}
	}
}

func writeHost(w infoWriter, i *system.Info) {
	w.text("Kernel Version", i.KernelVersion)
	w.text("Operating System", i.OperatingSystem)
	w.text("OSType", i.OSType)
	w.text("Architecture", i.Architecture)
	w.line("CPUs", i.NCPU)
	w.line("Total Memory", units.BytesSize(float64(i.MemTotal)))
	w.text("Name", i.Name)
	w.text("ID", i.ID)
	w.text("Docker Root Dir", i.DockerRootDir)
	w.line("Debug Mode", i.Debug)
	if i.Debug {
		w.line(" File Descriptors", i.NFd)
		w.line(" Goroutines", i.NGoroutines)
		w.line(" System Time", i.SystemTime)
		w.line(" EventsListeners", i.NEventsListener)
	}
	w.text("HTTP Proxy", i.HTTPProxy)
	w.text("HTTPS Proxy", i.HTTPSProxy)
	w.text("No Proxy", i.NoProxy)
	if len(i.Labels) > 0 {
		w.b.WriteString(" Labels:\n")
		for _, l := range i.Labels {
			fmt.Fprintf(w.b, "  %s\n", l)
		}
	}
	w.line("Experimental", i.ExperimentalBuild)
	if r := i.RegistryConfig; r != nil && (len(r.InsecureRegistryCIDRs) > 0 || len(r.IndexConfigs) > 0) {
		w.b.WriteString(" Insecure Registries:\n")
		for _, name := range sortedKeys(r.IndexConfigs) {
			if !r.IndexConfigs[name].Secure {
				fmt.Fprintf(w.b, "  %s\n", name)
			}
		}
		for _, c := range r.InsecureRegistryCIDRs {
			fmt.Fprintf(w.b, "  %s\n", c)
		}
		if len(r.Mirrors) > 0 {
			w.b.WriteString(" Registry Mirrors:\n")
			for _, m := range r.Mirrors {
				fmt.Fprintf(w.b, "  %s\n", m)
			}
		}
	}
	w.line("Live Restore Enabled", i.LiveRestoreEnabled)
	if len(i.DefaultAddressPools) > 0 {
		w.b.WriteString(" Default Address Pools:\n")
		for _, p := range i.DefaultAddressPools {
			fmt.Fprintf(w.b, "   Base: %s, Size: %d\n", p.Base, p.Size)
		}
	}
	if f := i.FirewallBackend; f != nil {
		w.line("Firewall Backend", f.Driver)
		for _, p := range f.Info {
			w.line(" "+p[0], p[1])
		}
	}
}
