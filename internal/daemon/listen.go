package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// host is one place to listen on.
type host struct {
	scheme string // "unix", "tcp" or "fd"
	addr   string // path, host:port, or the number of a passed socket ("" means all of them)
}

func parseHost(text string) (host, error) {
	scheme, addr, ok := strings.Cut(text, "://")
	if !ok {
		return host{}, fmt.Errorf("host %q has no scheme: use unix://PATH, tcp://ADDRESS or fd://", text)
	}
	h := host{scheme, addr}
	switch scheme {
	case "unix":
		if !filepath.IsAbs(addr) {
			return h, fmt.Errorf("host %q: the path of the socket must be absolute", text)
		}
		if len(addr) > 107 { // unix(7): 108 bytes with the final NUL
			return h, fmt.Errorf("host %q: the path of a socket must not be longer than 107 bytes", text)
		}
	case "tcp":
		if addr == "" {
			h.addr = "127.0.0.1:2375"
		} else if _, _, err := net.SplitHostPort(addr); err != nil {
			return h, fmt.Errorf("host %q is not of the form tcp://ADDRESS:PORT", text)
		}
	case "fd":
		if _, err := strconv.ParseUint(addr, 10, 16); addr != "" && err != nil {
			return h, fmt.Errorf("host %q: after fd:// comes the number of a socket that systemd passes, or nothing", text)
		}
	default:
		return h, fmt.Errorf("host %q: unknown scheme: use unix://PATH, tcp://ADDRESS or fd://", text)
	}
	return h, nil
}

// listeners are the open sockets of the daemon.
type listeners struct {
	all  []net.Listener
	made []socketFile
}

// socketFile is a unix socket that we made, as it was then.
type socketFile struct {
	path string
	info fs.FileInfo
}

// listen opens every host of c, or none.
func listen(c *Config) (_ *listeners, err error) {
	l := &listeners{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for _, text := range c.Hosts {
		h, err := parseHost(text)
		if err != nil {
			return nil, err
		}
		switch h.scheme {
		case "unix":
			ln, err := listenUnix(h.addr, c.Group)
			if err != nil {
				return nil, err
			}
			l.all = append(l.all, ln)
			if fi, err := os.Lstat(h.addr); err == nil {
				l.made = append(l.made, socketFile{h.addr, fi})
			}
		case "tcp":
			ln, err := listenTCP(c, h.addr)
			if err != nil {
				return nil, err
			}
			l.all = append(l.all, ln)
		case "fd":
			passed, err := passedSockets(h.addr)
			if err != nil {
				return nil, err
			}
			l.all = append(l.all, passed...)
		}
	}
	return l, nil
}

// close stops listening and removes the sockets, unless somebody has put others in their places.
func (l *listeners) close() {
	for _, s := range l.made {
		// The number of an inode is soon given to the next file, so the time of its making counts as well.
		if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.info) && now.ModTime().Equal(s.info.ModTime()) {
			_ = os.Remove(s.path)
		}
	}
	l.made = nil
	for _, ln := range l.all {
		_ = ln.Close()
	}
}

// checkHosts finds out, before anything has been done, whether somebody listens already where c says.
func checkHosts(c *Config) error {
	for _, text := range c.Hosts {
		h, err := parseHost(text)
		if err != nil {
			return err
		}
		if h.scheme == "unix" {
			if err := unanswered(h.addr); err != nil {
				return err
			}
		}
	}
	return nil
}

// listenUnix makes a socket for root and one group. A socket on which nobody answers is replaced.
func listenUnix(path, group string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	if err := unanswered(path); err != nil {
		return nil, err
	}
	gid, err := socketGroup(group)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // nobody answers there
		return nil, fmt.Errorf("replace the stale socket %q: %w", path, err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	ln.SetUnlinkOnClose(false)
	// Connecting takes the permission to write, and by our umask nobody but root has it until here.
	if err := errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o660)); err != nil {
		_ = ln.Close()
		_ = os.Remove(path)
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	return ln, nil
}

// unanswered is an error when path is something else than a socket nobody listens on.
func unanswered(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %q: %w", path, err)
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%q is there and is no socket: remove it, or listen somewhere else", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("find out who listens on %q: %w", path, err)
	}
	defer conn.Close()
	who := "another process"
	if pid := peer(conn); pid > 0 {
		who = "process " + strconv.Itoa(pid)
	}
	return fmt.Errorf("%s listens on %q already: stop it, or use another --host", who, path)
}

// peer is the process at the other end of a unix socket, 0 when unknown.
func peer(conn net.Conn) int {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// socketGroup is the group that may use the socket: the named one, else docker's or our own where it exists, else
// root's.
func socketGroup(name string) (int, error) {
	if name != "" {
		if gid, err := strconv.Atoi(name); err == nil {
			return gid, nil
		}
		g, err := user.LookupGroup(name)
		if err != nil {
			return 0, fmt.Errorf("group %q of the socket does not exist", name)
		}
		return strconv.Atoi(g.Gid)
	}
	for _, name := range []string{"docker", "berth"} {
		if g, err := user.LookupGroup(name); err == nil {
			return strconv.Atoi(g.Gid)
		}
	}
	return 0, nil
}

func listenTCP(c *Config, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on tcp://%s: %w", addr, err)
	}
	if !c.TLSVerify && (c.TLS == nil || !*c.TLS) {
		return ln, nil
	}
	tc, err := tlsConfig(c)
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	return tls.NewListener(ln, tc), nil
}

// tlsConfig lets in, with --tlsverify, only clients whose certificate the given CA signed; the system's CAs do not
// count (CVE-2018-12608).
func tlsConfig(c *Config) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("load the TLS certificate: %w", err)
	}
	// Only HTTP/1.1 can hand over its connection, which attach and exec need.
	tc := &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}
	if !c.TLSVerify {
		return tc, nil
	}
	pem, err := os.ReadFile(c.TLSCACert)
	if err != nil {
		return nil, fmt.Errorf("read the CA of clients: %w", err)
	}
	tc.ClientCAs = x509.NewCertPool()
	if !tc.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%q holds no certificate", c.TLSCACert)
	}
	tc.ClientAuth = tls.RequireAndVerifyClientCert
	return tc, nil
}

// firstPassed is where systemd's sockets begin (sd_listen_fds(3)).
const firstPassed = 3

// passedSockets takes over the sockets of systemd's socket activation: all of them, or the one with a number.
func passedSockets(which string) ([]net.Listener, error) {
	if pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID")); pid != os.Getpid() {
		return nil, errors.New("fd:// needs sockets from systemd, and it passed none: start the daemon through a socket unit")
	}
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	from, to := firstPassed, firstPassed+count
	if which != "" {
		n, err := strconv.Atoi(which)
		if err != nil || n < from || n >= to {
			return nil, fmt.Errorf("fd://%s: systemd passed %d sockets, from number %d on", which, count, firstPassed)
		}
		from, to = n, n+1
	}
	if from == to {
		return nil, errors.New("fd://: systemd passed no socket")
	}
	var all []net.Listener
	for fd := from; fd < to; fd++ {
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "passed socket")
		ln, err := net.FileListener(f)
		_ = f.Close()
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
			return nil, fmt.Errorf("socket %d from systemd: %w", fd, err)
		}
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // it is systemd's
		}
		all = append(all, ln)
	}
	return all, nil
}

// notify tells systemd how the service stands (sd_notify(3)); without systemd it does nothing.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}
