package dockerapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/berth-engine/berth/engine"
	"github.com/moby/moby/api/pkg/stdcopy"
	"golang.org/x/net/websocket"
	"golang.org/x/sys/unix"
)

// maxAttachBody is the longest body, in bytes, that a request for a stream may have.
const maxAttachBody = 64 << 10

// hijacker turns a request into a raw connection.
type hijacker struct {
	c   *call
	tty bool
	// spare is another descriptor of the connection that the engine was given, for a last word.
	spare *os.File

	bodyTaken bool   // the request's body was its own matter, and has been read
	header    string // more lines for the answer's head
	last      []byte // what follows the last word
}

func (c *call) hijack(tty bool) *hijacker { return &hijacker{c: c, tty: tty} }

// open is an engine.Opener: it takes the connection from net/http and answers 101 when the client asked for an upgrade,
// else 200. The media type tells the client whether the output is framed.
func (h *hijacker) open() (net.Conn, []byte, error) {
	c := h.c
	// Some clients (dockerode) repeat their options in a body. It is no part of the stream.
	if n := c.r.ContentLength; n > maxAttachBody && !h.bodyTaken {
		return nil, nil, invalid("a request for a stream has a body of %d bytes, which is too long", n)
	} else if n > 0 {
		if _, err := io.Copy(io.Discard, c.r.Body); err != nil {
			return nil, nil, fmt.Errorf("read the request's body: %w", err)
		}
	}
	conn, buffered, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("take over the connection: %w", err)
	}
	c.taken = true
	var ahead []byte
	if n := buffered.Reader.Buffered(); n > 0 {
		peeked, _ := buffered.Reader.Peek(n)
		ahead = append([]byte(nil), peeked...)
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
	if c.r.Header.Get("Upgrade") != "" {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + streamType(h.tty, c.version) +
			"\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
	}
	for _, name := range []string{"Api-Version", "Docker-Experimental", "Ostype", "Server"} {
		head += name + ": " + c.w.Header().Get(name) + "\r\n"
	}
	if _, err := conn.Write([]byte(head + h.header + "\r\n")); err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("answer the request for a stream: %w", err)
	}
	if f, ok := conn.(interface{ File() (*os.File, error) }); ok {
		h.spare, _ = f.File()
	}
	return conn, ahead, nil
}

// tell writes into the stream why there is nothing else in it, opening it if that has not happened.
func (h *hijacker) tell(err error) {
	text := []byte(err.Error() + "\r\n")
	if !h.tty {
		text = frame(nil, 1, text)
	}
	text = append(text, h.last...)
	if h.c.taken {
		if h.spare != nil {
			_, _ = h.spare.Write(text)
		}
		return
	}
	if conn, _, err := h.open(); err == nil {
		_, _ = conn.Write(text)
		_ = conn.Close()
	}
}

// close lets go of the spare descriptor: as long as it is open, the client waits for more.
func (h *hijacker) close() {
	if h.spare != nil {
		_ = h.spare.Close()
	}
}

func (s *Server) containerAttach(c *call) error {
	rec, err := s.engine.Containers.Get(c.name())
	if err != nil {
		return err
	}
	hj := c.hijack(rec.Config.Process.Tty)
	defer hj.close()
	return s.engine.Attach(c.lasting(), rec.ID, engine.AttachOptions{
		Stream: c.flag("stream"), Logs: c.flag("logs"),
		Stdin: c.flag("stdin"), Stdout: c.flag("stdout"), Stderr: c.flag("stderr"),
		DetachKeys: c.text("detachKeys"),
	}, hj.open)
}

// containerAttachWS bridges a websocket to the container: every message of the client is input, all output, unframed,
// comes in binary messages (text ones before 1.28).
func (s *Server) containerAttachWS(c *call) error {
	rec, err := s.engine.Containers.Get(c.name())
	if err != nil {
		return err
	}
	o := engine.AttachOptions{Stream: c.flag("stream"), Logs: c.flag("logs"), DetachKeys: c.text("detachKeys")}
	o.Stdin, o.Stdout, o.Stderr = websocketStreams(c)
	var bridge sync.WaitGroup
	err = s.engine.Attach(c.lasting(), rec.ID, o, func() (net.Conn, []byte, error) {
		ours, theirs, err := socketPair()
		if err != nil {
			return nil, nil, err
		}
		c.taken = true
		bridge.Add(1)
		go func() {
			defer bridge.Done()
			defer ours.Close()
			websocket.Server{Handler: func(ws *websocket.Conn) {
				if c.version >= 28 {
					ws.PayloadType = websocket.BinaryFrame
				}
				pump(ws, ours, rec.Config.Process.Tty)
			}}.ServeHTTP(c.w, c.r)
		}()
		return theirs, nil, nil
	})
	bridge.Wait()
	return err
}

// pump copies both ways until the container's side has said everything, or the client is gone. Output that is framed
// loses its frames: on a websocket there is one stream.
func pump(client, container net.Conn, tty bool) {
	var in sync.WaitGroup
	in.Go(func() {
		_, _ = io.Copy(container, client)
		closeWrite(container)
	})
	if tty {
		_, _ = io.Copy(client, container)
	} else {
		_, _ = stdcopy.StdCopy(client, client, container)
	}
	_ = client.Close()
	_ = container.Close()
	in.Wait()
}

func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// socketPair is a connection whose other end has a descriptor that can be handed to a monitor.
func socketPair() (ours, theirs net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conns[i], err = net.FileConn(f)
		_ = f.Close()
		if err != nil {
			if i == 0 {
				_ = unix.Close(fds[1])
			} else {
				_ = conns[0].Close()
			}
			return nil, nil, fmt.Errorf("make a socket pair: %w", err)
		}
	}
	return conns[0], conns[1], nil
}
