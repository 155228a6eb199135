package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// inspectors asks for the raw description of one object of each kind.
func inspectors(api *client.Client, size, verbose bool, platform *ocispec.Platform) []inspector {
	return []inspector{
		{"container", reflect.TypeFor[container.InspectResponse](), func(ctx context.Context, name string) (json.RawMessage, error) {
			r, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{Size: size})
			return r.Raw, err
		}},
		{"image", reflect.TypeFor[image.InspectResponse](), func(ctx context.Context, name string) (json.RawMessage, error) {
			var raw bytes.Buffer
			options := []client.ImageInspectOption{client.ImageInspectWithRawResponse(&raw)}
			if platform != nil {
				options = append(options, client.ImageInspectWithPlatform(platform))
			}
			_, err := api.ImageInspect(ctx, name, options...)
			return raw.Bytes(), err
		}},
		{"network", reflect.TypeFor[network.Inspect](), func(ctx context.Context, name string) (json.RawMessage, error) {
			r, err := api.NetworkInspect(ctx, name, client.NetworkInspectOptions{Verbose: verbose})
			return r.Raw, err
		}},
		{"volume", reflect.TypeFor[volume.Volume](), func(ctx context.Context, name string) (json.RawMessage, error) {
			r, err := api.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
			return r.Raw, err
		}},
	}
}

type inspector struct {
	kind string
	of   reflect.Type // of what it gets, in Docker's client
	ask  func(context.Context, string) (json.RawMessage, error)
}

// description is what the server says of an object, and its type.
type description struct {
	raw json.RawMessage
	of  reflect.Type
}

func (i *inspector) get(ctx context.Context, name string) (description, error) {
	raw, err := i.ask(ctx, name)
	return description{raw, i.of}, err
}

func newInspect(a *app) *cobra.Command {
	var format, kind string
	var size bool
	cmd := command("inspect [OPTIONS] NAME|ID [NAME|ID...]",
		"Show everything about containers, images, networks and volumes", minArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			kinds := inspectors(api, size, false, nil)
			if kind != "" {
				i := slices.IndexFunc(kinds, func(i inspector) bool { return i.kind == kind })
				if i < 0 {
					return fmt.Errorf(`unknown type: %q: must be one of "container", "image", "network", "volume"`, kind)
				}
				kinds = kinds[i : i+1]
			}
			return a.inspect(ctx, format, args, func(ctx context.Context, name string) (description, error) {
				return firstFound(ctx, kinds, name)
			})
		})
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", `How to print: "json" or a Go template`)
	f.BoolVarP(&size, "size", "s", false, "Show the sizes of containers")
	f.StringVar(&kind, "type", "", "Look among objects of this kind only")
	cmd.ValidArgsFunction = a.completeAll(a.containerNames(true))
	return cmd
}

func firstFound(ctx context.Context, kinds []inspector, name string) (description, error) {
	for _, k := range kinds {
		found, err := k.get(ctx, name)
		if err == nil || !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) || len(kinds) == 1 {
			return found, err
		}
	}
	return description{}, fmt.Errorf("Error: No such object: %s", name)
}

// newKindInspect is the inspect command of one kind of object.
func newKindInspect(a *app, kind, use, short string, complete completer) *cobra.Command {
	var format, platform string
	var size, verbose bool
	cmd := command(use, short, minArgs(1), func(ctx context.Context, args []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		var p *ocispec.Platform
		if platform != "" {
			if p, err = parsePlatform(platform); err != nil {
				return err
			}
		}
		for _, k := range inspectors(api, size, verbose, p) {
			if k.kind == kind {
				return a.inspect(ctx, format, args, k.get)
			}
		}
		return errors.New("unknown kind")
	})
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", `How to print: "json" or a Go template`)
	switch kind {
	case "container":
		f.BoolVarP(&size, "size", "s", false, "Show sizes")
	case "image":
		f.StringVar(&platform, "platform", "", "Show this platform's image (os/arch[/variant])")
	case "network":
		f.BoolVarP(&verbose, "verbose", "v", false, "Show diagnostics too")
	}
	cmd.ValidArgsFunction = a.completeAll(complete)
	return cmd
}

func newContainerInspect(a *app) *cobra.Command {
	return newKindInspect(a, "container", "inspect [OPTIONS] CONTAINER [CONTAINER...]",
		"Show everything about one or more containers", a.containerNames(true))
}

func newImageInspect(a *app) *cobra.Command {
	return newKindInspect(a, "image", "inspect [OPTIONS] IMAGE [IMAGE...]",
		"Show everything about one or more images", a.imageNames)
}

func newNetworkInspect(a *app) *cobra.Command {
	return newKindInspect(a, "network", "inspect [OPTIONS] NETWORK [NETWORK...]",
		"Show everything about one or more networks", a.networkNames)
}

func newVolumeInspect(a *app) *cobra.Command {
	return newKindInspect(a, "volume", "inspect [OPTIONS] VOLUME [VOLUME...]",
		"Show everything about one or more volumes", a.volumeNames)
}

// inspect prints the descriptions of the objects named: as one indented JSON list, or a template's text for each. What
// was found is printed also when something was not.
func (a *app) inspect(ctx context.Context, format string, names []string,
	get func(context.Context, string) (description, error)) error {
	var template *outputTemplate
	var err error
	if format != "" && format != "json" {
		if template, err = a.parseFormat(format); err != nil {
			return err
		}
	}
	var found []description
	var failed []error
	for _, name := range names {
		one, err := get(ctx, name)
		if err != nil {
			failed = append(failed, plainError(err))
			continue
		}
		found = append(found, one)
	}
	var b bytes.Buffer
	if err := a.writeInspected(&b, template, format, found); err != nil {
		failed = append(failed, err)
	}
	if _, err := a.Out.Write(b.Bytes()); err != nil {
		return err
	}
	return joined(failed)
}

func (a *app) writeInspected(b *bytes.Buffer, template *outputTemplate, format string, found []description) error {
	if template != nil {
		for _, one := range found {
			v, err := parseJSON(one.raw)
			if err != nil {
				return err
			}
			v = shaped(v, one.of)
			var text bytes.Buffer // a template that fails halfway prints nothing
			if err := template.execute(&text, v); err != nil {
				b.WriteByte('\n')
				return fmt.Errorf("template parsing error: %w", err)
			}
			text.WriteTo(b)
			b.WriteByte('\n')
		}
		return nil
	}
	list := append([]byte{'['}, bytes.Join(rawBytes(found), []byte{','})...)
	list = append(list, ']')
	if format == "json" {
		if err := json.Compact(b, list); err != nil {
			return err
		}
	} else if len(found) == 0 {
		b.WriteString("[]")
	} else if err := json.Indent(b, list, "", "    "); err != nil {
		return err
	}
	b.WriteByte('\n')
	return nil
}

// parseFormat parses the --format of a command that prints one object. Docker's status for a mistake is 64.
func (a *app) parseFormat(format string) (*outputTemplate, error) {
	template, err := parseTemplate(unescape(format))
	if err != nil {
		return nil, &exitError{64, "template parsing error: " + err.Error()}
	}
	return template, nil
}

func rawBytes(list []description) [][]byte {
	out := make([][]byte, len(list))
	for i, one := range list {
		out[i] = bytes.TrimSpace(one.raw)
	}
	return out
}

// printObject prints one API value under --format.
func (a *app) printObject(format string, value any) error {
	var o any = value
	if _, ready := value.(*object); !ready {
		var err error
		if o, err = objectOf(value); err != nil {
			return err
		}
		o = shaped(o, reflect.TypeOf(value))
	}
	if format == "json" {
		text, err := toJSON(o)
		if err != nil {
			return err
		}
		_, err = io.WriteString(a.Out, text+"\n")
		return err
	}
	template, err := a.parseFormat(format)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := template.execute(&b, o); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err = a.Out.Write(b.Bytes())
	return err
}
