package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

const insecureUsage = "Ask registries without verified TLS, and in clear text if they do not speak TLS"

func newManifestCreate(a *app) *cobra.Command {
	var amend, insecure bool
	cmd := command("create [OPTIONS] MANIFEST_LIST MANIFEST [MANIFEST...]", "Begin a list of images for several platforms", minArgs(2),
		func(ctx context.Context, args []string) error {
			list, err := draftNamed(a, args[0])
			if err != nil {
				return err
			}
			return a.createManifestList(ctx, list, args[1:], amend, insecure)
		})
	cmd.Long = "Begin a list of images for several platforms.\nThe images lie at registries already. The list is kept here, beside the " +
		"configuration of this program, until it is pushed."
	f := cmd.Flags()
	f.BoolVarP(&amend, "amend", "a", false, "Add to a list that has begun")
	f.BoolVar(&insecure, "insecure", false, insecureUsage)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// createManifestList looks all manifests up before it writes one down.
func (a *app) createManifestList(ctx context.Context, list *draft, names []string, amend, insecure bool) error {
	have, err := list.manifests()
	if err != nil && !errors.Is(err, errNoManifest) {
		return err
	}
	if err == nil && !amend {
		return errors.New("refusing to amend an existing manifest list with no --amend flag")
	}
	var add []draftManifest
	for _, name := range names {
		ref, err := taggedName(name)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(have, func(m draftManifest) bool { return m.Ref == ref.String() }) {
			continue
		}
		found, err := a.lookManifests(ctx, ref, false, insecure)
		if err != nil {
			return err
		}
		if found.List {
			return fmt.Errorf("%s is a manifest list", reference.FamiliarString(ref))
		}
		m := found.Manifests[0]
		m.Ref = ref.String()
		add = append(add, draftOf(m))
	}
	for _, m := range add {
		if err := list.save(m); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.Out, "Created manifest list", list.ref.String())
	return nil
}

func newManifestAnnotate(a *app) *cobra.Command {
	var p ocispec.Platform
	cmd := command("annotate [OPTIONS] MANIFEST_LIST MANIFEST", "Say what platform an image of a list is for", exactArgs(2),
		func(_ context.Context, args []string) error {
			list, err := draftNamed(a, args[0])
			if err != nil {
				return err
			}
			ref, err := taggedName(args[1])
			if err != nil {
				return err
			}
			m, err := list.manifest(ref)
			if errors.Is(err, errNoManifest) {
				return fmt.Errorf("manifest for image %s does not exist in %s", args[1], args[0])
			}
			if err != nil {
				return err
			}
			if err := annotate(&m, p); err != nil {
				return err
			}
			return list.save(m)
		})
	f := cmd.Flags()
	f.StringVar(&p.Architecture, "arch", "", "Architecture (amd64, arm64 …)")
	f.StringVar(&p.OS, "os", "", "Operating system")
	f.StringSliceVar(&p.OSFeatures, "os-features", nil, "Features of the operating system that the image needs")
	f.StringVar(&p.OSVersion, "os-version", "", "Version of the operating system")
	f.StringVar(&p.Variant, "variant", "", "Variant of the architecture (v7, v8 …)")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// annotate changes what p says of the platform of a manifest.
func annotate(m *draftManifest, p ocispec.Platform) error {
	if m.Descriptor.Platform == nil {
		m.Descriptor.Platform = &ocispec.Platform{}
	}
	at := m.Descriptor.Platform
	for _, c := range []struct {
		to    *string
		value string
	}{{&at.OS, p.OS}, {&at.Architecture, p.Architecture}, {&at.Variant, p.Variant}, {&at.OSVersion, p.OSVersion}} {
		if c.value != "" {
			*c.to = c.value
		}
	}
	for _, f := range p.OSFeatures {
		if !slices.Contains(at.OSFeatures, f) {
			at.OSFeatures = append(at.OSFeatures, f)
		}
	}
	if !knownPlatform(at.OS, at.Architecture) {
		return fmt.Errorf("manifest entry for image has unsupported os/arch combination: %s/%s", at.OS, at.Architecture)
	}
	return nil
}

// knownPlatform tells whether programs are made for such machines.
func knownPlatform(system, arch string) bool {
	of := map[string]string{
		"aix": "ppc64", "android": "386 amd64 arm arm64", "darwin": "386 amd64 arm arm64", "dragonfly": "amd64",
		"freebsd": "386 amd64 arm arm64 riscv64", "illumos": "amd64", "ios": "amd64 arm64", "js": "wasm",
		"linux":  "386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x",
		"netbsd": "386 amd64 arm arm64", "openbsd": "386 amd64 arm arm64", "plan9": "386 amd64 arm", "solaris": "amd64",
		"wasip1": "wasm", "wasip2": "wasm", "wasi": "wasm", "windows": "386 amd64 arm arm64",
	}
	return arch != "" && slices.Contains(strings.Fields(of[system]), arch)
}

func newManifestInspect(a *app) *cobra.Command {
	var insecure, verbose bool
	cmd := command("inspect [OPTIONS] [MANIFEST_LIST] MANIFEST", "Show the manifest of an image, or a list", rangeArgs(1, 2),
		func(ctx context.Context, args []string) error {
			ref, err := taggedName(args[len(args)-1])
			if err != nil {
				return err
			}
			list, err := draftNamed(a, args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				m, err := list.manifest(ref)
				if err != nil {
					return err
				}
				return a.printManifest(m, verbose)
			}
			have, err := list.manifests()
			if err == nil {
				return a.printManifests(have, listType(have), verbose)
			}
			if !errors.Is(err, errNoManifest) {
				return err
			}
			return a.inspectRemote(ctx, ref, verbose, insecure)
		})
	cmd.Long = "Show the manifest of an image, or a list.\nA list that has begun here is shown as it would be pushed; everything else is " +
		"looked up at its registry."
	f := cmd.Flags()
	f.BoolVar(&insecure, "insecure", false, insecureUsage)
	f.BoolVarP(&verbose, "verbose", "v", false, "Show layers and platforms too")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func (a *app) inspectRemote(ctx context.Context, ref reference.Named, verbose, insecure bool) error {
	found, err := a.lookManifests(ctx, ref, verbose, insecure)
	if err != nil {
		return err
	}
	var all []draftManifest
	for _, m := range found.Manifests {
		all = append(all, draftOf(m))
	}
	if !found.List {
		all[0].Ref = ref.String()
		return a.printManifest(all[0], verbose)
	}
	return a.printManifests(all, found.MediaType, verbose)
}

func (a *app) printManifest(m draftManifest, verbose bool) error {
	var b bytes.Buffer
	if verbose {
		data, err := json.MarshalIndent(m, "", "\t")
		if err != nil {
			return err
		}
		b.Write(data)
	} else if err := json.Indent(&b, m.raw(), "", "\t"); err != nil {
		return fmt.Errorf("the manifest of %s: %w", m.Ref, err)
	}
	_, err := fmt.Fprintln(a.Out, b.String())
	return err
}

func (a *app) printManifests(all []draftManifest, mediaType string, verbose bool) error {
	if !verbose {
		data, err := listBytes(all, mediaType)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.Out, string(data))
		return err
	}
	data, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Out, string(data))
	return err
}

func newManifestPush(a *app) *cobra.Command {
	var insecure, purge bool
	cmd := command("push [OPTIONS] MANIFEST_LIST", "Upload a list to its registry", exactArgs(1),
		func(ctx context.Context, args []string) error {
			list, err := draftNamed(a, args[0])
			if err != nil {
				return err
			}
			if err := a.pushManifestList(ctx, list, insecure); err != nil || !purge {
				return err
			}
			return list.remove()
		})
	cmd.Long = "Upload a list to its registry.\nImages that lie in another repository, or at another registry, are brought along."
	f := cmd.Flags()
	f.BoolVar(&insecure, "insecure", false, insecureUsage)
	f.BoolVarP(&purge, "purge", "p", false, "Forget the list here afterwards")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func (a *app) pushManifestList(ctx context.Context, list *draft, insecure bool) error {
	all, err := list.manifests()
	if err != nil {
		return err
	}
	in := berthapi.ManifestList{MediaType: listType(all)}
	var hosts []reference.Named
	for _, m := range all {
		if p := m.Descriptor.Platform; p == nil || p.OS == "" || p.Architecture == "" {
			return fmt.Errorf("manifest %s must have an OS and Architecture to be pushed to a registry", m.Ref)
		}
		in.Sources = append(in.Sources, berthapi.Manifest{Ref: m.Ref, Descriptor: m.Descriptor})
		if ref, err := reference.ParseNormalizedNamed(m.Ref); err == nil {
			hosts = append(hosts, ref)
		}
	}
	if in.Raw, err = listBytes(all, in.MediaType); err != nil {
		return err
	}
	header, err := a.registryHeader(list.ref, hosts)
	if err != nil {
		return err
	}
	var done berthapi.PushedList
	if err := a.askManifests(ctx, http.MethodPost, list.ref, insecureQuery(insecure), header, in, &done); err != nil {
		return err
	}
	for _, d := range done.Copied {
		fmt.Fprintf(a.Out, "Pushed ref %s@%s with digest: %s\n", list.ref.Name(), d, d)
	}
	fmt.Fprintln(a.Out, done.Digest)
	return nil
}

func newManifestRm(a *app) *cobra.Command {
	cmd := command("rm MANIFEST_LIST [MANIFEST_LIST...]", "Forget lists that have begun here", minArgs(1),
		func(_ context.Context, args []string) error {
			var failed []error
			for _, name := range args {
				list, err := draftNamed(a, name)
				if err == nil {
					err = list.remove()
				}
				if err != nil {
					failed = append(failed, err)
				}
			}
			return joined(failed)
		})
	cmd.Long = "Forget lists that have begun here. What was pushed stays at its registry."
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// lookManifests asks the daemon for what a name leads to at its registry.
func (a *app) lookManifests(ctx context.Context, ref reference.Named, content, insecure bool) (*berthapi.Manifests, error) {
	header, err := a.registryHeader(ref, nil)
	if err != nil {
		return nil, err
	}
	query := insecureQuery(insecure)
	if content {
		query.Set("content", "1")
	}
	var out berthapi.Manifests
	if err := a.askManifests(ctx, http.MethodGet, ref, query, header, nil, &out); err != nil {
		return nil, err
	}
	if !out.List && len(out.Manifests) != 1 {
		return nil, fmt.Errorf("the daemon tells of %d manifests where there is one", len(out.Manifests))
	}
	return &out, nil
}

func insecureQuery(insecure bool) url.Values {
	query := url.Values{}
	if insecure {
		query.Set("insecure", "1")
	}
	return query
}

// askManifests speaks to the daemon and leaves its errors as Docker's client, which asks registries itself, has them.
func (a *app) askManifests(ctx context.Context, method string, ref reference.Named, query url.Values, header http.Header, in, out any) error {
	err := a.sendOwnWith(ctx, header, method, berthapi.ManifestsPath(ref.String()), query, in, out)
	var told *daemonError
	if errors.As(err, &told) {
		return errors.New(told.text)
	}
	return err
}

// registryHeader has the credentials for a registry, and for those of other names.
func (a *app) registryHeader(ref reference.Named, others []reference.Named) (http.Header, error) {
	header := http.Header{}
	auth, err := a.authFor(ref)
	if err != nil {
		return nil, err
	}
	if auth != "" {
		header.Set("X-Registry-Auth", auth)
	}
	config, err := a.authsFor(others)
	if config != "" {
		header.Set("X-Registry-Config", config)
	}
	return header, err
}

// taggedName reads a name as people write it.
func taggedName(name string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, err
	}
	return reference.TagNameOnly(ref), nil
}

// listType is the media type of a list: an OCI index if it begins with an OCI manifest, as Docker's client has it.
func listType(all []draftManifest) string {
	if len(all) > 0 && all[0].Descriptor.MediaType == ocispec.MediaTypeImageManifest {
		return ocispec.MediaTypeImageIndex
	}
	return "application/vnd.docker.distribution.manifest.list.v2+json"
}

// listBytes writes a list in the form in which Docker's client pushes it, so that both make the same digest.
func listBytes(all []draftManifest, mediaType string) ([]byte, error) {
	type entry struct {
		MediaType   string            `json:"mediaType,omitempty"`
		Size        int64             `json:"size"`
		Digest      digest.Digest     `json:"digest,omitempty"`
		URLs        []string          `json:"urls,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
		Platform    *ocispec.Platform `json:"platform,omitempty"`
	}
	list := struct {
		SchemaVersion int     `json:"schemaVersion"`
		MediaType     string  `json:"mediaType,omitempty"`
		Manifests     []entry `json:"manifests"`
	}{2, mediaType, []entry{}}
	for _, m := range all {
		d := m.Descriptor
		list.Manifests = append(list.Manifests, entry{d.MediaType, d.Size, d.Digest, d.URLs, d.Annotations, d.Platform})
	}
	return json.MarshalIndent(&list, "", "   ")
}
