package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

func newSave(a *app) *cobra.Command {
	var output string
	var platforms []string
	cmd := command("save [OPTIONS] IMAGE [IMAGE...]", "Write images to a tar archive", minArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			var options []client.ImageSaveOption
			list, err := platformList(platforms)
			if err != nil {
				return err
			}
			if len(list) > 0 {
				options = append(options, client.ImageSaveWithPlatforms(list...))
			}
			return a.download(output, "save", func() (io.ReadCloser, error) { return api.ImageSave(ctx, args, options...) })
		})
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "Write to this file instead of STDOUT")
	f.StringSliceVar(&platforms, "platform", nil, "Write these platforms' images alone (os/arch[/variant])")
	cmd.ValidArgsFunction = a.completeAll(a.imageNames)
	return cmd
}

func platformList(words []string) ([]ocispec.Platform, error) {
	var list []ocispec.Platform
	for _, w := range words {
		p, err := parsePlatform(w)
		if err != nil {
			return nil, err
		}
		list = append(list, *p)
	}
	return list, nil
}

// download copies what get returns to a file, or to standard output where that is no terminal. The file appears whole
// or not at all.
func (a *app) download(output, command string, get func() (io.ReadCloser, error)) error {
	if output == "" {
		if _, ok := terminal(a.Out); ok {
			return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
		}
		body, err := get()
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.Copy(a.Out, body)
		return err
	}
	if err := outputPlace(output); err != nil {
		return fmt.Errorf("failed to %s: %w", command, err)
	}
	body, err := get()
	if err != nil {
		return err
	}
	defer body.Close()
	if info, err := os.Stat(output); err == nil && !info.Mode().IsRegular() {
		// A device or a pipe: there is nothing to replace.
		f, err := os.OpenFile(output, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(f, body)
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(output), ".berth-"+command+"-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := io.Copy(tmp, body); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), output)
}

func outputPlace(output string) error {
	info, err := os.Stat(filepath.Dir(output))
	if err != nil || !info.IsDir() {
		return fmt.Errorf("invalid output path: directory %q does not exist", filepath.Dir(output))
	}
	if info, err := os.Stat(output); err == nil && info.IsDir() {
		return fmt.Errorf("invalid output path: %q is a directory", output)
	}
	return nil
}
