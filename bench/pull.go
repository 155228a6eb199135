package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	// layerSize is how large each of the four layers becomes, compressed.
	layerSize = 119 << 20 / 4
	// largest is how large a file of the machine may be to be taken into a layer.
	largest = 24 << 20
	// The registry has no program of its own, so what it costs is the least there is, and the same for everybody.
	pullFrom = "127.0.0.1:5000"
)

// layerRoots are the folders of this machine that fill the layers, each in its order. What one does not need the last takes.
var layerRoots = [][]string{{"/usr/bin", "/usr/sbin"}, {"/usr/lib/x86_64-linux-gnu", "/usr/lib"}, {"/usr/share"},
	{"/usr/include", "/usr/local", "/usr/libexec"}}

// pulls is the image to be pulled and the registry's files.
type pulls struct {
	b       *bench
	dir     string   // blobs by digest
	layers  []string // paths of the compressed layers
	target  ocispec.Descriptor
	plain   int64 // bytes of the layers, decompressed
	entries int
}

// measurePulls measures the pull of one image by all engines, and what its parts cost without an engine.
func (b *bench) measurePulls() error {
	p := &pulls{b: b, dir: filepath.Join(b.dir, "blobs")}
	progress("making an image of %d MB in %d layers", len(layerRoots)*layerSize>>20, len(layerRoots))
	if err := p.make(); err != nil {
		return fmt.Errorf("making the image to pull: %w", err)
	}
	var servers []*http.Server
	defer func() {
		for _, s := range servers {
			s.Close()
		}
	}()
	for _, e := range b.alive() {
		s, err := p.serve(e.room)
		if err != nil {
			return fmt.Errorf("registry for %s: %w", e.title, err)
		}
		servers = append(servers, s)
	}
	wall := row{what: "pull", unit: "ms", values: map[string][]float64{}}
	cpu := row{what: "processor time of it", unit: "ms", values: map[string][]float64{}}
	failed := map[string]bool{}
	once := func(name string, round int, f func() (wall, cpu time.Duration, err error)) {
		if failed[name] {
			return
		}
		unix.Sync() // what others wrote is not written on this one's time
		took, work, err := f()
		if err != nil {
			b.note("pull, %s: %v", name, err)
			failed[name] = true
			delete(wall.values, name)
			delete(cpu.values, name)
			return
		}
		progress("round %d, %s: %.0f ms, processor %.0f ms", round, name, ms(took), ms(work))
		if round > 0 {
			wall.add(name, ms(took))
			if work > 0 {
				cpu.add(name, ms(work))
			}
		}
	}
	progress("pulls of %.0f MB, %.0f MB unpacked, %d entries", float64(p.size())/1e6, float64(p.plain)/1e6, p.entries)
	for round := range b.rounds + 1 {
		for _, e := range b.alive() {
			once(e.name, round, func() (time.Duration, time.Duration, error) { return p.pull(e) })
		}
		if b.wants("floor") {
			once("floor", round, func() (time.Duration, time.Duration, error) { return p.shell("igzip -dc") })
			once("zcat", round, func() (time.Duration, time.Duration, error) { return p.shell("zcat") })
		}
	}
	b.rows = append(b.rows, wall, cpu)
	b.image = fmt.Sprintf("%.0f MB compressed, %.0f MB unpacked, %d entries in %d gzip layers", float64(p.size())/1e6, float64(p.plain)/1e6,
		p.entries, len(p.layers))
	return nil
}

// freshDisk puts everything on an ext4 of its own, with a journal, in a file. What the machine has may be an ext4 without one,
// which takes no inode again for minutes after its file was removed: whoever is measured after something was removed
// then makes files five times as slowly as the one before.
func (b *bench) freshDisk() error {
	b.disk = b.dir + ".ext4"
	f, err := os.Create(b.disk)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(16<<30), f.Close()); err != nil {
		return err
	}
	for _, line := range [][]string{{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard", b.disk}, {"mount", "-o", "loop", b.disk, b.dir}} {
		if out, err := exec.Command(line[0], line[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line[0], err, lastLine(string(out)))
		}
	}
	return os.Chmod(b.dir, 0o711)
}

func (b *bench) dropDisk() {
	if b.disk == "" {
		return
	}
	// Engines may have left mounts below, and their rooms end with this process.
	if err := unix.Unmount(b.dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", b.dir, err)
	}
	if err := os.Remove(b.disk); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
	}
}

func (p *pulls) size() (n int64) {
	for _, l := range p.layers {
		if st, err := os.Stat(l); err == nil {
			n += st.Size()
		}
	}
	return n
}

// make fills the registry.
func (p *pulls) make() error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: "application/vnd.docker.distribution.manifest.v2+json",
		Layers: make([]ocispec.Descriptor, len(layerRoots))}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	config.RootFS.Type, config.RootFS.DiffIDs = "layers", make([]digest.Digest, len(layerRoots))
	config.Config.Cmd = []string{"/usr/bin/true"}
	made, errs := make([]*layer, len(layerRoots)), make([]error, len(layerRoots))
	var wg sync.WaitGroup
	for i, roots := range layerRoots {
		wg.Go(func() { made[i], errs[i] = p.layer(i, roots) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, l := range made {
		m.Layers[i] = ocispec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", Size: l.packed.n,
			Digest: digest.NewDigest(digest.SHA256, l.packed.hash)}
		config.RootFS.DiffIDs[i] = digest.NewDigest(digest.SHA256, l.plain.hash)
		p.plain += l.plain.n
		p.entries += l.entries
		path := p.blob(m.Layers[i].Digest)
		if err := os.Rename(l.path, path); err != nil {
			return err
		}
		p.layers = append(p.layers, path)
	}
	var err error
	if m.Config, err = p.document("application/vnd.docker.container.image.v1+json", config); err != nil {
		return err
	}
	p.target, err = p.document(m.MediaType, m)
	return err
}

func (p *pulls) blob(d digest.Digest) string { return filepath.Join(p.dir, d.Encoded()) }

func (p *pulls) document(mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Size: int64(len(data)), Digest: digest.FromBytes(data)}
	return d, os.WriteFile(p.blob(d.Digest), data, 0o644)
}

// counted counts and hashes what is written.
type counted struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.hash.Write(b[:n])
	c.n += int64(n)
	return n, err
}

type layer struct {
	path          string
	packed, plain *counted
	entries       int
}

var errFull = errors.New("the layer is large enough")

// layer packs what is below some folders until there is enough of it, as docker build and push do.
func (p *pulls) layer(i int, roots []string) (_ *layer, err error) {
	l := &layer{path: filepath.Join(p.dir, strconv.Itoa(i))}
	f, err := os.Create(l.path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	l.packed = &counted{w: f, hash: sha256.New()}
	z := gzip.NewWriter(l.packed)
	l.plain = &counted{w: z, hash: sha256.New()}
	t := tar.NewWriter(l.plain)
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return fs.SkipDir // what is not there, or not for us
			}
			return l.add(t, path, d)
		})
		if err != nil && !errors.Is(err, errFull) {
			return nil, err
		}
	}
	return l, errors.Join(t.Close(), z.Close())
}

func (l *layer) add(t *tar.Writer, path string, d fs.DirEntry) error {
	if l.packed.n >= layerSize {
		return errFull
	}
	info, err := d.Info()
	if err != nil || info.Size() > largest || info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe|fs.ModeDevice) != 0 {
		return nil
	}
	var link string
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name = path[1:]
	h.Uname, h.Gname = "", ""
	var data []byte
	if info.Mode().IsRegular() {
		if data, err = os.ReadFile(path); err != nil {
			return err
		}
		h.Size = int64(len(data))
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	l.entries++
	_, err = t.Write(data)
	return err
}

// serve answers as a registry in the network of a room.
func (p *pulls) serve(r *room) (*http.Server, error) {
	var l net.Listener
	var err error
	r.do(func() { l, err = net.Listen("tcp", pullFrom) })
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /v2/bench/manifests/{ref}", func(w http.ResponseWriter, req *http.Request) {
		d := p.target.Digest
		if ref := req.PathValue("ref"); strings.Contains(ref, ":") {
			d = digest.Digest(ref)
		}
		w.Header().Set("Content-Type", p.target.MediaType)
		w.Header().Set("Docker-Content-Digest", d.String())
		http.ServeFile(w, req, p.blob(d))
	})
	mux.HandleFunc("GET /v2/bench/blobs/{digest}", func(w http.ResponseWriter, req *http.Request) {
		d := digest.Digest(req.PathValue("digest"))
		if d.Validate() != nil {
			http.NotFound(w, req)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeFile(w, req, p.blob(d))
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }() // until it is closed
	return s, nil
}

// pull pulls once and removes what came.
func (p *pulls) pull(e *engine) (took, cpu time.Duration, err error) {
	args := []string{"pull", "-q", pullFrom + "/bench:1"}
	if e.name == "podman" {
		args = []string{"pull", "-q", "--tls-verify=false", pullFrom + "/bench:1"}
	}
	before := e.cpu()
	if took, err = e.cli(args...); err != nil {
		return 0, 0, err
	}
	if len(e.daemons) > 0 {
		cpu = e.cpu() - before
	}
	_, err = e.cli("rmi", pullFrom+"/bench:1")
	return took, cpu, err
}

// cpu is the processor time of the engine's daemons and of the programs they ran to their end.
func (e *engine) cpu() (sum time.Duration) {
	for _, d := range e.daemons {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime, in ticks of 10 ms
			if i < len(fields) {
				n, _ := strconv.ParseInt(fields[i], 10, 64)
				sum += time.Duration(n) * 10 * time.Millisecond
			}
		}
	}
	return sum
}

// shell unpacks all layers at once by other programs, with nothing fetched, hashed or kept.
func (p *pulls) shell(unpack string) (time.Duration, time.Duration, error) {
	dir, err := os.MkdirTemp(p.b.dir, "floor-")
	if err != nil {
		return 0, 0, err
	}
	script := `for f in "$@"; do d=$(mktemp -d "$DIR/XXXXXX"); (` + unpack + ` <"$f" | tar -x -C "$d") & done; wait`
	cmd := exec.Command("sh", append([]string{"-c", script, "-"}, p.layers...)...)
	cmd.Env = append(os.Environ(), "DIR="+dir)
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(begin)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w: %s", unpack, err, lastLine(string(out)))
	}
	if len(out) > 0 {
		return 0, 0, fmt.Errorf("%s: %s", unpack, lastLine(string(out)))
	}
	ru, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	cpu := time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	return took, cpu, os.RemoveAll(dir)
}

// pullReport writes the table.
func (b *bench) pullReport() string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Pull\n\nMade by `make bench-pull` on %s; medians of %d rounds in turns. The image: %s, of files of this machine, from a "+
		"registry on loopback that hands out files.\n", b.started.UTC().Format("2006-01-02 15:04 MST"), b.rounds, b.image)
	s.WriteString(b.surroundings())
	s.WriteString("| what | Berth | Docker | Podman | floor | `zcat` for it | Berth ÷ floor | Docker ÷ Berth |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range b.rows {
		fmt.Fprintf(&s, "| %s", r.what)
		for _, name := range []string{"berth", "docker", "podman", "floor", "zcat"} {
			if v, ok := r.median(name); ok {
				fmt.Fprintf(&s, " | %s ms", number(v))
			} else {
				s.WriteString(" | –")
			}
		}
		fmt.Fprintf(&s, " | %s | %s |\n", r.ratio("berth", "floor"), r.ratio("docker", "berth"))
	}
	s.WriteString("\nAll write to an ext4 with a journal, made for this, in a file. The floor is `igzip -dc | tar -x` of all layers at once, with nothing fetched, hashed or kept. Asked for: at most 1.25 × the floor, and " +
		"Docker ÷ Berth of 2 or more.\n")
	for _, n := range b.notes {
		fmt.Fprintf(&s, "\n- %s\n", n)
	}
	return s.String()
}

func (r *row) ratio(of, to string) string {
	x, ok1 := r.median(of)
	y, ok2 := r.median(to)
	if !ok1 || !ok2 || y == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", x/y)
}
