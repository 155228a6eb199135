package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/berth-engine/berth/internal/archive"
	"github.com/berth-engine/berth/internal/confine"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

type cpFlags struct{ archive, follow, quiet bool }

func newCp(a *app) *cobra.Command {
	var o cpFlags
	cmd := command("cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tberth cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		"Copy files between a container and this machine", exactArgs(2), func(ctx context.Context, args []string) error {
			return a.cp(ctx, args[0], args[1], o)
		})
	cmd.Long = `Copy files between a container and this machine.

With '-' as the source, a tar archive is read from STDIN and laid out in a
directory of the container. With '-' as the destination, the container's files
are written to STDOUT as a tar archive.`
	f := cmd.Flags()
	f.BoolVarP(&o.archive, "archive", "a", false, "Keep the owners of the files")
	f.BoolVarP(&o.follow, "follow-link", "L", false, "Copy what a symbolic link SRC_PATH points to")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Do not report what was copied")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return cmd
}

// cpPlace takes CONTAINER:PATH apart. A path that begins with a dot or a slash is of this machine whatever colons it
// has.
func cpPlace(arg string) (container, file string) {
	if filepath.IsAbs(arg) {
		return "", arg
	}
	container, file, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(container, ".") {
		return "", arg
	}
	return container, file
}

func (a *app) cp(ctx context.Context, from, to string, o cpFlags) error {
	fromContainer, source := cpPlace(from)
	toContainer, dest := cpPlace(to)
	switch {
	case source == "":
		return errors.New("source can not be empty")
	case dest == "":
		return errors.New("destination can not be empty")
	case fromContainer != "" && toContainer != "":
		return errors.New("copying between containers is not supported")
	case fromContainer != "":
		return a.cpOut(ctx, fromContainer, source, dest, o)
	case toContainer != "":
		return a.cpIn(ctx, source, toContainer, dest, o)
	}
	return errors.New("must specify at least one container source")
}

// copyEnd is one end of a copy, as far as it decides where the files go.
type copyEnd struct {
	path        string
	exists, dir bool
}

// asksDirectory reports whether a path can only mean a directory.
func asksDirectory(p string) bool {
	return strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == "." || p == ".."
}

// placeCopy decides as cp(1) does: into a directory that is there; else as a new name in its parent. rename is the new
// name of the archive's top, "" leaves it.
func placeCopy(source, dest copyEnd) (dir, rename string, err error) {
	// path.Split cleans nothing: "/a/." must not become "/a" before it was asked whether it asks for a directory.
	switch {
	case dest.exists && dest.dir:
		return dest.path, "", nil
	case dest.exists && source.dir:
		return "", "", errors.New("cannot copy directory")
	case !dest.exists && !source.dir && asksDirectory(dest.path):
		return "", "", errors.New("no such directory")
	}
	clean := path.Clean(dest.path)
	return path.Dir(clean), path.Base(clean), nil
}

func (a *app) cpOut(ctx context.Context, container, source, dest string, o cpFlags) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	name := source
	if o.follow {
		if name, err = a.followInContainer(ctx, container, source); err != nil {
			return err
		}
	}
	var end copyEnd
	if dest != "-" {
		// A mistake here is told before anything travels.
		if end, err = localDestination(dest); err != nil {
			return err
		}
	}
	result, err := api.CopyFromContainer(ctx, container, client.CopyFromContainerOptions{SourcePath: name})
	if err != nil {
		return err
	}
	defer result.Content.Close()
	if dest == "-" {
		if _, ok := terminal(a.Out); ok {
			return errors.New("cowardly refusing to write an archive to a terminal: redirect it")
		}
		_, err := io.Copy(a.Out, result.Content)
		return err
	}
	counted := &countingReader{r: result.Content}
	dir, rename, err := placeCopy(copyEnd{path: source, exists: true, dir: result.Stat.Mode.IsDir()}, end)
	if err != nil {
		return fmt.Errorf("%w: %s", err, dest)
	}
	var stream io.Reader = counted
	if o.follow && rename == "" && path.Base(name) != path.Base(source) {
		rename = path.Base(source) // the link's own name, not its target's
	}
	if rename != "" {
		r := renamed(stream, rename)
		defer r.Close()
		stream = r
	}
	if err := a.unpackHere(ctx, dir, stream, o); err != nil {
		return err
	}
	a.copied(o, counted.n, dest)
	return nil
}

// unpackHere lays an archive out below a directory of this machine. It was made by a container, so nothing in it may
// lead out of that directory.
func (a *app) unpackHere(ctx context.Context, dir string, stream io.Reader, o cpFlags) error {
	root, err := confine.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	options := archive.UnpackOptions{NoOverwriteDirNonDir: true, Devices: o.archive}
	if !o.archive {
		options.Owner = &archive.Owner{UID: os.Geteuid(), GID: os.Getegid()}
	}
	return archive.Unpack(ctx, root, "/", stream, options)
}

func localDestination(dest string) (copyEnd, error) {
	asks := asksDirectory(dest)
	abs, err := filepath.Abs(dest)
	if err != nil {
		return copyEnd{}, err
	}
	// A link is followed, also one to what is not there yet.
	if info, err := os.Lstat(abs); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if target, err := os.Readlink(abs); err == nil {
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(abs), target)
			}
			abs = target
		}
	}
	end := copyEnd{path: abs}
	if info, err := os.Stat(abs); err == nil {
		end.exists, end.dir = true, info.IsDir()
		if mode := info.Mode(); !mode.IsDir() && !mode.IsRegular() {
			return end, fmt.Errorf("destination %q must be a directory or a regular file", dest)
		}
		if asks && !end.dir {
			return end, fmt.Errorf("destination %q is not a directory", dest)
		}
		return end, nil
	}
	if info, err := os.Stat(filepath.Dir(abs)); err != nil || !info.IsDir() {
		return end, fmt.Errorf("invalid output path: directory %q does not exist", filepath.Dir(abs))
	}
	if asks {
		end.path += "/"
	}
	return end, nil
}

// followInContainer returns what a link in a container points to.
func (a *app) followInContainer(ctx context.Context, container, name string) (string, error) {
	stat, err := a.api.ContainerStatPath(ctx, container, client.ContainerStatPathOptions{Path: name})
	if err != nil {
		return "", err
	}
	if stat.Stat.Mode&fs.ModeSymlink == 0 {
		return name, nil
	}
	target := stat.Stat.LinkTarget
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(name), target)
	}
	return target, nil
}

func (a *app) cpIn(ctx context.Context, source, container, dest string, o cpFlags) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	end, err := a.containerDestination(ctx, container, dest)
	if err != nil {
		return err
	}
	dir := end.path
	counted := &countingReader{}
	if source == "-" {
		if end.exists && !end.dir {
			return fmt.Errorf("destination \"%s:%s\" must be a directory", container, dest)
		}
		counted.r = a.In
	} else {
		local, err := localSource(source, o.follow)
		if err != nil {
			return err
		}
		var rename string
		if dir, rename, err = placeCopy(copyEnd{path: source, exists: true, dir: local.dir}, end); err != nil {
			return fmt.Errorf("%w: %s:%s", err, container, dest)
		}
		if rename == "" {
			rename = local.as
		}
		packed := packHere(ctx, local.path)
		defer packed.Close()
		counted.r = packed
		if rename != "" {
			r := renamed(packed, rename)
			defer r.Close()
			counted.r = r
		}
	}
	_, err = api.CopyToContainer(ctx, container, client.CopyToContainerOptions{DestinationPath: dir, Content: counted,
		CopyUIDGID: o.archive})
	if err != nil {
		return err
	}
	if source != "-" {
		a.copied(o, counted.n, container+":"+dest)
	}
	return nil
}

func (a *app) containerDestination(ctx context.Context, container, dest string) (copyEnd, error) {
	end := copyEnd{path: dest}
	if !path.IsAbs(end.path) {
		end.path = "/" + end.path
	}
	stat := func() (fs.FileMode, string, bool) {
		s, err := a.api.ContainerStatPath(ctx, container, client.ContainerStatPathOptions{Path: end.path})
		return s.Stat.Mode, s.Stat.LinkTarget, err == nil
	}
	mode, target, ok := stat()
	if ok && mode&fs.ModeSymlink != 0 {
		if !path.IsAbs(target) {
			target = path.Join("/", path.Dir(path.Clean(end.path)), target)
		}
		end.path = target
		mode, _, ok = stat()
	}
	// Where the stat failed the server says why when the archive arrives.
	if !ok {
		return end, nil
	}
	if mode&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeDevice|fs.ModeIrregular) != 0 {
		return end, fmt.Errorf("destination \"%s:%s\" must be a directory or a regular file", container, dest)
	}
	end.exists, end.dir = true, mode.IsDir()
	if asksDirectory(dest) && !end.dir {
		return end, fmt.Errorf("destination \"%s:%s\" is not a directory", container, dest)
	}
	return end, nil
}

// source is a path of this machine that will be packed. as is the name its top gets, "" its own.
type localPath struct {
	path, as string
	dir      bool
}

func localSource(source string, follow bool) (localPath, error) {
	abs, err := filepath.Abs(source)
	if err != nil {
		return localPath{}, err
	}
	info, err := os.Lstat(abs)
	if err != nil {
		return localPath{}, err
	}
	l := localPath{path: abs}
	if info.Mode()&fs.ModeSymlink != 0 && (follow || asksDirectory(source)) {
		if l.path, err = filepath.EvalSymlinks(abs); err != nil {
			return localPath{}, err
		}
		if info, err = os.Stat(l.path); err != nil {
			return localPath{}, err
		}
		if filepath.Base(l.path) != filepath.Base(abs) {
			l.as = filepath.Base(abs)
		}
	}
	l.dir = info.IsDir()
	if asksDirectory(source) && !l.dir {
		return localPath{}, fmt.Errorf("%s: not a directory", source)
	}
	if strings.HasSuffix(source, "/.") || source == "." {
		l.path, l.as = l.path+"/.", "" // the contents alone
	}
	return l, nil
}

// packHere is the archive of a file or directory of this machine.
func packHere(ctx context.Context, name string) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		root, err := confine.Open("/")
		if err == nil {
			err = archive.Pack(ctx, root, name, w, archive.PackOptions{})
			root.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// renamed gives the top of an archive another name, in the entries below it and in hard links too.
func renamed(in io.Reader, name string) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(rename(tar.NewReader(in), tar.NewWriter(w), name))
	}()
	return r
}

func rename(in *tar.Reader, out *tar.Writer, name string) error {
	top := ""
	change := func(s string) string {
		clean := strings.TrimPrefix(path.Clean("/"+s), "/")
		slash := ""
		if strings.HasSuffix(s, "/") {
			slash = "/"
		}
		switch first, rest, below := strings.Cut(clean, "/"); {
		case top == "" || top == ".":
			return path.Join(name, clean) + slash
		case first != top:
			return s
		case below:
			return path.Join(name, rest) + slash
		}
		return name + slash
	}
	for first := true; ; first = false {
		h, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if first {
			top, _, _ = strings.Cut(strings.TrimPrefix(path.Clean("/"+h.Name), "/"), "/")
		}
		h.Name = change(h.Name)
		if h.Typeflag == tar.TypeLink {
			h.Linkname = change(h.Linkname)
		}
		h.Format = tar.FormatUnknown // the new name may need another
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}

// countingReader counts what a copy moves, for its report.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (a *app) copied(o cpFlags, n int64, to string) {
	if _, ok := terminal(a.Err); ok && !o.quiet {
		fmt.Fprintf(a.Err, "Successfully copied %s to %s\n", units.HumanSizeWithPrecision(float64(n), 3), to)
	}
}
