package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// draft is a manifest list that is being put together. It lies where Docker's client has its own and in the same form, so that
// either goes on with what the other has begun:
//
//	<configuration>/manifests/<list>/<manifest>
//
// one JSON document for each manifest, and names with "-" for ":" and "_" for "/". A list has them in the order of their names.
type draft struct {
	ref reference.Named
	dir string
}

// draftManifest is such a document.
type draftManifest struct {
	Ref              string
	Descriptor       ocispec.Descriptor
	Raw              []byte          `json:",omitempty"` // not there from clients before 23.0
	SchemaV2Manifest json.RawMessage `json:",omitempty"`
	OCIManifest      json.RawMessage `json:",omitempty"`
}

func draftOf(m berthapi.Manifest) draftManifest {
	out := draftManifest{Ref: m.Ref, Descriptor: m.Descriptor, Raw: m.Raw}
	switch m.Descriptor.MediaType {
	case ocispec.MediaTypeImageManifest:
		out.OCIManifest = m.Raw
	case "application/vnd.docker.distribution.manifest.v2+json":
		out.SchemaV2Manifest = m.Raw
	}
	return out
}

// raw is the manifest itself.
func (m *draftManifest) raw() []byte {
	for _, text := range [][]byte{m.Raw, m.SchemaV2Manifest, m.OCIManifest} {
		if len(text) > 0 {
			return text
		}
	}
	return nil
}

// errNoManifest is the kind of an error that says that a list, or a manifest in it, is not here.
var errNoManifest = errors.New("no such manifest")

type noManifest struct{ name string }

func (e *noManifest) Error() string { return "No such manifest: " + e.name }
func (e *noManifest) Unwrap() error { return errNoManifest }

func draftNamed(a *app, name string) (*draft, error) {
	ref, err := taggedName(name)
	if err != nil {
		return nil, err
	}
	return &draft{ref, filepath.Join(a.configDir(), "manifests", draftName(ref))}, nil
}

func draftName(ref reference.Named) string {
	return strings.NewReplacer(":", "-", "/", "_").Replace(ref.String())
}

// manifests reads the whole list.
func (d *draft) manifests() ([]draftManifest, error) {
	files, err := os.ReadDir(d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &noManifest{reference.FamiliarString(d.ref)}
	}
	if err != nil {
		return nil, err
	}
	var out []draftManifest
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			continue // being written
		}
		m, err := d.read(f.Name())
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	if len(out) == 0 {
		return nil, &noManifest{reference.FamiliarString(d.ref)}
	}
	return out, nil
}

// manifest reads one manifest of the list.
func (d *draft) manifest(ref reference.Named) (draftManifest, error) {
	m, err := d.read(draftName(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return m, &noManifest{reference.FamiliarString(ref)}
	}
	return m, err
}

func (d *draft) read(file string) (m draftManifest, err error) {
	data, err := os.ReadFile(filepath.Join(d.dir, file))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s is damaged: %w: begin the list anew with \"berth manifest rm\"", filepath.Join(d.dir, file), err)
	}
	return m, nil
}

func (d *draft) save(m draftManifest) error {
	ref, err := reference.ParseNormalizedNamed(m.Ref)
	if err != nil {
		return err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	return writeFile(filepath.Join(d.dir, draftName(ref)), data)
}

// remove forgets the list.
func (d *draft) remove() error {
	if _, err := os.Stat(d.dir); errors.Is(err, fs.ErrNotExist) {
		return &noManifest{reference.FamiliarString(d.ref)}
	}
	return os.RemoveAll(d.dir)
}
