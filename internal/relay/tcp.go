package relay

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// conn is one connection of TCP; end may be called at any time and more than once.
type conn struct {
	to   netip.AddrPort
	link string
	end  context.CancelFunc
}

// carry carries a connection that was accepted until it has ended or ctx has. It owns fd.
func (c *conn) carry(ctx context.Context, fd int, o *Options) {
	// What the listening socket lets through its connections have passed: they need not ask for each packet.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	if o.Admit != nil && !o.Admit(linux.ArrivedBy(fd)) {
		reset(fd)
		return
	}
	near, err := connOf(fd)
	if err != nil {
		return
	}
	defer near.Close()
	d := net.Dialer{Timeout: o.Dial}
	if c.link != "" {
		d.Control = func(_, _ string, raw syscall.RawConn) (err error) {
			if rawErr := raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), c.link) }); rawErr != nil {
				return rawErr
			}
			return err
		}
	}
	dialed, err := d.DialContext(ctx, "tcp", c.to.String())
	if err != nil {
		_ = near.SetLinger(0) // the client sees that nobody is there
		return
	}
	far := dialed.(*net.TCPConn)
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
	defer stop()
	back := make(chan struct{})
	go func() {
		defer close(back)
		pump(near, far)
	}()
	pump(far, near)
	<-back
}

// pump carries one direction, and its end: that of the stream, or that of the connection.
func pump(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err == nil {
		err = to.CloseWrite()
		if err == nil {
			return
		}
	}
	for _, c := range []*net.TCPConn{to, from} {
		_ = c.SetLinger(0)
		c.Close()
	}
}

func connOf(fd int) (*net.TCPConn, error) {
	f := os.NewFile(uintptr(fd), "accepted")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		c.Close()
		return nil, os.ErrInvalid
	}
	_ = t.SetKeepAlive(true)
	return t, nil
}

// reset ends a connection at once.
func reset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(fd)
}
