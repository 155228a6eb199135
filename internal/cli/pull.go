package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

func newPull(a *app) *cobra.Command {
	var o pullOptions
	var trust bool
	cmd := command("pull [OPTIONS] NAME[:TAG|@DIGEST]", "Download an image from a registry", exactArgs(1),
		func(ctx context.Context, args []string) error {
			if !trust {
				return errNoTrust
			}
			o.progress, o.result = a.Out, a.Out
			return a.pull(ctx, args[0], o)
		})
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all-tags", "a", false, "Download every tag of the repository")
	f.StringVar(&o.platform, "platform", "", "Platform of the image, where there are several (os/arch[/variant])")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Print nothing but the image's name")
	f.BoolVar(&trust, "disable-content-trust", true, "Images are not verified by Notary; only true is possible")
	f.Lookup("disable-content-trust").Hidden = true
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

var errNoTrust = errors.New("images are not verified by Notary: leave --disable-content-trust out")

type pullOptions struct {
	all, quiet       bool
	platform         string
	progress, result io.Writer // result gets the image's full name; nil: not printed
}

// pull downloads an image.
func (a *app) pull(ctx context.Context, name string, o pullOptions) error {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	switch {
	case o.all && !reference.IsNameOnly(ref):
		return errors.New("tag can't be used with --all-tags/-a")
	case !o.all && reference.IsNameOnly(ref):
		ref = reference.TagNameOnly(ref)
		if tagged, ok := ref.(reference.Tagged); ok && !o.quiet && o.result != nil {
			fmt.Fprintf(o.result, "Using default tag: %s\n", tagged.Tag())
		}
	}
	api, err := a.client()
	if err != nil {
		return err
	}
	auth, err := a.authFor(ref)
	if err != nil {
		return err
	}
	options := client.ImagePullOptions{All: o.all, RegistryAuth: auth}
	if o.platform != "" {
		p, err := parsePlatform(o.platform)
		if err != nil {
			return err
		}
		options.Platforms = []ocispec.Platform{*p}
	}
	stream, err := api.ImagePull(ctx, ref.String(), options)
	if err != nil {
		return err
	}
	view := a.progress(o.progress)
	if o.quiet {
		view.w, view.terminal = io.Discard, false
	}
	if err := view.show(ctx, stream, nil); err != nil {
		return err
	}
	if o.result != nil {
		fmt.Fprintln(o.result, ref.String())
	}
	return nil
}

// authFor returns what the server needs to know of the person to reach a registry, encoded for its header. Credentials
// go to the registry they belong to and to no other.
func (a *app) authFor(ref reference.Named) (string, error) {
	config, err := a.configFile()
	if err != nil {
		return "", err
	}
	server := reference.Domain(ref)
	if server == "docker.io" {
		server = hubServer
	}
	auth, err := config.credentials(server)
	if err != nil {
		return "", err
	}
	if auth == (registry.AuthConfig{}) {
		return "", nil
	}
	auth.ServerAddress = server
	return authconfig.Encode(auth)
}

// authsFor returns the same for the registries of several names, "" if nothing is known of any.
func (a *app) authsFor(refs []reference.Named) (string, error) {
	all := map[string]json.RawMessage{}
	for _, ref := range refs {
		one, err := a.authFor(ref)
		if err != nil {
			return "", err
		}
		if one == "" {
			continue
		}
		text, err := base64.URLEncoding.DecodeString(one)
		if err != nil {
			return "", err
		}
		all[reference.Domain(ref)] = text
	}
	if len(all) == 0 {
		return "", nil
	}
	text, err := json.Marshal(all)
	return base64.URLEncoding.EncodeToString(text), err
}

// familiarTagged is the name as people write it, with the tag that is meant.
func familiarTagged(name string) string {
	ref, err := reference.ParseAnyReference(name)
	if err != nil {
		return name
	}
	if named, ok := ref.(reference.Named); ok {
		return reference.FamiliarString(reference.TagNameOnly(named))
	}
	return name
}

// credentialsArchive is a tar archive with a client configuration that holds the credentials in the plain.
func credentialsArchive(all map[string]registry.AuthConfig) ([]byte, error) {
	auths := make(map[string]authEntry, len(all))
	for server, auth := range all {
		entry := authEntry{IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken}
		if auth.Username != "" {
			entry.Auth = base64.StdEncoding.EncodeToString([]byte(auth.Username + ":" + auth.Password))
		}
		auths[server] = entry
	}
	data, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, dir := range []string{"run/", "run/secrets/", "run/secrets/docker/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: "run/secrets/docker/config.json", Mode: 0o600,
		Size: int64(len(data))}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	return b.Bytes(), w.Close()
}

// shortDigest is the beginning of a digest people tell images apart by.
func shortDigest(digest string) string {
	_, hex, ok := strings.Cut(digest, ":")
	if !ok {
		hex = digest
	}
	return hex[:min(12, len(hex))]
}
