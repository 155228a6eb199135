// Berth-registry is the server side of the distribution protocol: a registry in a directory. It is CNCF's
// distribution with few options and a safe default for each. `berth registry` executes it.
//
//	berth-registry serve [OPTIONS]    answer until SIGTERM or SIGINT; open requests are ended first
//	berth-registry gc [OPTIONS]       remove blobs that no manifest leads to
//
// It is a module of its own: distribution wants the original forms of libraries that Berth replaces (see
// docs/decisions), and its hundred dependencies are nobody else's.
//
// # The directory
//
// One process has it at a time, which flock(2) of the file "lock" in it sees to; its pid is in the file. A collection while somebody pushes
// would take blobs away whose manifest is still to come. Everything else in it is distribution's format, and Debian's
// docker-registry reads it.
//
// # What is refused
//
// To answer others than this machine without TLS, unless --insecure says that it is meant; passwords over such a
// connection; a cache that deletes; accounts whose passwords are not hashed with bcrypt.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, out, errOut io.Writer) int {
	var err error
	switch {
	case len(args) > 0 && args[0] == "serve":
		err = serve(args[1:], errOut)
	case len(args) > 0 && args[0] == "gc":
		err = gc(args[1:], out, errOut)
	default:
		err = errors.New("usage: berth-registry serve|gc [OPTIONS]")
	}
	if err != nil {
		fmt.Fprintln(errOut, "berth-registry:", err)
		return 1
	}
	return 0
}

type options struct {
	listen, root, htpasswd, cert, key, mirror string
	remove, readOnly, insecure                bool
}

func serve(args []string, errOut io.Writer) error {
	var o options
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	f.SetOutput(errOut)
	f.StringVar(&o.listen, "listen", "127.0.0.1:5000", "")
	f.StringVar(&o.root, "root", "/var/lib/berth-registry", "")
	f.StringVar(&o.htpasswd, "htpasswd", "", "")
	f.StringVar(&o.cert, "tls-cert", "", "")
	f.StringVar(&o.key, "tls-key", "", "")
	f.StringVar(&o.mirror, "mirror", "", "")
	f.BoolVar(&o.remove, "allow-delete", false, "")
	f.BoolVar(&o.readOnly, "read-only", false, "")
	f.BoolVar(&o.insecure, "insecure", false, "")
	var service string // by whom and with what it was started; others find it by this
	f.StringVar(&service, "service", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if service != "" {
		o.mirror = os.Getenv("BERTH_REGISTRY_MIRROR") // it may have a password in it
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	config, err := o.config()
	if err != nil {
		return err
	}
	unlock, err := lock(o.root)
	if err != nil {
		return err
	}
	defer unlock()
	if service != "" {
		// Distribution opens its socket itself and tells nobody. Who answers could be somebody else, if the address were taken.
		l, err := net.Listen("tcp", o.listen)
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
		go tellReady(o.listen, os.NewFile(3, "ready"))
	}
	// Distribution reads settings of exporters from the environment; none are wanted.
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"} {
		if err := os.Setenv(name, "none"); err != nil {
			return err
		}
	}
	ctx := context.Background()
	if o.mirror == "" { // what is about an image elsewhere is known there
		driver, err := factory.Create(ctx, "filesystem", storageAt(o.root).Parameters())
		if err != nil {
			return err
		}
		images, err := storage.NewRegistry(ctx, driver)
		if err != nil {
			return err
		}
		registry.RegisterHandler(func(_ *configuration.Configuration, next http.Handler) http.Handler {
			return newReferrers(next, images)
		})
	}
	r, err := registry.NewRegistry(ctx, config)
	if err != nil {
		return err
	}
	return r.ListenAndServe()
}

// tellReady writes a line when the registry answers.
func tellReady(address string, ready *os.File) {
	defer ready.Close()
	host, port, _ := net.SplitHostPort(address) // checked by config
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	for {
		if c, err := net.Dial("tcp", net.JoinHostPort(host, port)); err == nil {
			_ = c.Close()
			_, _ = io.WriteString(ready, "ready\n") // who has gone meanwhile finds out by the lock
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// config checks the options and writes them in distribution's words.
func (o *options) config() (*configuration.Configuration, error) {
	host, port, err := net.SplitHostPort(o.listen)
	if err != nil || port == "" {
		return nil, fmt.Errorf("--listen %q is no address: write ADDRESS:PORT, as in 127.0.0.1:5000", o.listen)
	}
	switch {
	case (o.cert == "") != (o.key == ""):
		return nil, errors.New("--tls-cert and --tls-key belong together")
	case o.cert == "" && !o.insecure && !local(host):
		return nil, fmt.Errorf("%q is open to other machines: give --tls-cert and --tls-key, or say --insecure if "+
			"clear text is meant", o.listen)
	case o.mirror != "" && (o.readOnly || o.remove):
		return nil, errors.New("a cache of another registry (--mirror) is neither --read-only nor does it --allow-delete")
	}
	c := &configuration.Configuration{
		Version: configuration.CurrentVersion,
		Log:     configuration.Log{Level: "warn", AccessLog: configuration.AccessLog{Disabled: true}},
		Storage: storageAt(o.root),
		Catalog: configuration.Catalog{MaxEntries: 1000},
	}
	c.Storage["delete"] = configuration.Parameters{"enabled": o.remove || o.mirror != ""}
	if o.readOnly {
		c.Storage["maintenance"] = configuration.Parameters{"readonly": map[any]any{"enabled": true}}
	}
	c.HTTP.Addr, c.HTTP.DrainTimeout = o.listen, 10*time.Second
	c.HTTP.RelativeURLs = true // it answers to whatever name it was asked by
	if o.cert != "" {
		if _, err := tls.LoadX509KeyPair(o.cert, o.key); err != nil {
			return nil, fmt.Errorf("--tls-cert and --tls-key: %w", err)
		}
		c.HTTP.TLS.Certificate, c.HTTP.TLS.Key = o.cert, o.key
	}
	if o.htpasswd != "" {
		data, err := os.ReadFile(o.htpasswd)
		if err != nil {
			return nil, fmt.Errorf("--htpasswd: %w", err)
		}
		if err := checkAccounts(string(data)); err != nil {
			return nil, fmt.Errorf("--htpasswd %s: %w", o.htpasswd, err)
		}
		c.Auth = configuration.Auth{"htpasswd": {"realm": "berth", "path": o.htpasswd}}
	}
	if o.mirror != "" {
		u, err := url.Parse(o.mirror)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
			return nil, errors.New("--mirror is no http or https URL of a registry")
		}
		if u.User != nil {
			c.Proxy.Username = u.User.Username()
			c.Proxy.Password, _ = u.User.Password()
			u.User = nil
		}
		c.Proxy.RemoteURL = u.String()
	}
	return c, nil
}

func storageAt(root string) configuration.Storage {
	return configuration.Storage{"filesystem": {"rootdirectory": root}}
}

// local tells whether nobody else reaches an address that is listened on.
func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// checkAccounts refuses a file of accounts that would let in nobody, or somebody by a weak hash.
func checkAccounts(text string) error {
	n := 0
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if !ok || user == "" {
			return fmt.Errorf("line %d is not USER:HASH", i+1)
		}
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || !strings.HasPrefix(hash, "$2") {
			return fmt.Errorf("the password of %q in line %d is not hashed with bcrypt: use `htpasswd -B`", user, i+1)
		}
		n++
	}
	if n == 0 {
		return errors.New("it has no account in it")
	}
	return nil
}

// lock makes the directory this process's until the returned function is called.
func lock(root string) (func(), error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%q is in use by another berth-registry: stop it first", root)
		}
		return nil, err
	}
	if err = f.Truncate(0); err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// gc removes what no manifest leads to, and with --untagged the manifests that no tag leads to, unless they are about one that
// stays.
func gc(args []string, out, errOut io.Writer) error {
	var root string
	var o storage.GCOpts
	f := flag.NewFlagSet("gc", flag.ContinueOnError)
	f.SetOutput(errOut)
	f.StringVar(&root, "root", "/var/lib/berth-registry", "")
	f.BoolVar(&o.RemoveUntagged, "untagged", false, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if _, err := os.Stat(root); err != nil {
		return fmt.Errorf("there is no registry in %q", root)
	}
	unlock, err := lock(root)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(filepath.Join(root, "docker")); err != nil {
		return fmt.Errorf("there is no registry with images in %q", root)
	}
	o.Quiet = true
	before, err := size(root)
	if err != nil {
		return err
	}
	ctx := context.Background()
	driver, err := factory.Create(ctx, "filesystem", storageAt(root).Parameters())
	if err != nil {
		return err
	}
	r, err := storage.NewRegistry(ctx, driver, storage.EnableDelete)
	if err != nil {
		return err
	}
	if err := storage.MarkAndSweep(ctx, driver, keeping{r}, o); err != nil {
		return err
	}
	after, err := size(root)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "Reclaimed %d bytes\n", before-after)
	return err
}

// size adds up the files below a directory.
func size(root string) (n int64, err error) {
	err = filepath.WalkDir(root, func(_ string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
