package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/berth-engine/berth/internal/tty"
	"github.com/moby/moby/client"
)

// errDetached says that the person typed the detach sequence.
var errDetached = errors.New("read escape sequence")

// hijacked is the raw connection to a process, after the server switched protocols.
type hijacked struct {
	conn   net.Conn
	in     *bufio.Reader // what the server sends, including what arrived with its answer
	header http.Header   // of its answer
}

// statusError is the server's refusal of a request.
type statusError struct {
	status int
	text   string
	berth  bool // the server is one of ours, and knows the request
}

func (e *statusError) Error() string { return "Error response from daemon: " + e.text }

// hijack posts a request of Docker's API and takes over its connection. It stands in for the client library's own, which forgets the
// server's sentence when the server refuses.
func (a *app) hijack(ctx context.Context, path string, query url.Values, body any) (*hijacked, error) {
	api, err := a.client()
	if err != nil {
		return nil, err
	}
	return a.hijackOwn(ctx, "/v"+api.ClientVersion()+path, query, body)
}

// hijackOwn does so with any path, which may be one of package berthapi.
func (a *app) hijackOwn(ctx context.Context, path string, query url.Values, body any) (*hijacked, error) {
	api, err := a.client()
	if err != nil {
		return nil, err
	}
	if a.global.debug {
		fmt.Fprintf(a.Err, "POST %s?%s\n", path, query.Encode())
	}
	conn, err := api.Dialer()(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	host, _ := a.host()
	h, err := upgrade(conn, basePath(host)+path, query, body)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return h, nil
}

// basePath is what stands before every path of a server named tcp://address:port/path.
func basePath(host string) string {
	proto, rest, _ := strings.Cut(host, "://")
	if _, path, ok := strings.Cut(rest, "/"); ok && proto != "unix" {
		return "/" + strings.Trim(path, "/")
	}
	return ""
}

func upgrade(conn net.Conn, path string, query url.Values, body any) (*hijacked, error) {
	var payload string
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		payload = string(data)
	}
	contentType := "text/plain"
	if body != nil {
		contentType = "application/json"
	}
	target := (&url.URL{Path: path, RawQuery: query.Encode()}).RequestURI()
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"+
		"Content-Type: %s\r\nContent-Length: %d\r\n\r\n", target, client.DummyHost, contentType, len(payload))
	if _, err := io.WriteString(conn, head+payload); err != nil {
		return nil, fmt.Errorf("cannot send to the daemon: %w", err)
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, fmt.Errorf("the daemon gave no valid answer: %w", err)
	}
	// Daemons from before the upgrade was defined answer 200 and go on with the stream all the same.
	if resp.StatusCode == http.StatusSwitchingProtocols || resp.StatusCode == http.StatusOK {
		return &hijacked{conn: conn, in: in, header: resp.Header}, nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var answer struct{ Message string }
	if json.Unmarshal(text, &answer) == nil && answer.Message != "" {
		text = []byte(answer.Message)
	}
	known := strings.HasPrefix(resp.Header.Get("Server"), "Berth/") && answer.Message != "page not found"
	return nil, &statusError{resp.StatusCode, strings.TrimSpace(string(text)), known}
}

// closeWrite tells the process that its input has ended.
func (h *hijacked) closeWrite() {
	if c, ok := h.conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}

// session joins the person's streams and a process's.
type session struct {
	h          *hijacked
	stdin      io.Reader // nil: no input
	out, err   io.Writer // nil: dropped
	tty        bool      // the process has a terminal: one stream
	framed     bool      // it comes in frames all the same, as from berthapi.ExecPath
	exit       *int      // the exit code, if the stream told it
	detachKeys string
}

// run copies until the process's output has ended, or until the detach keys were typed, which gives errDetached. The
// terminal is raw in the meantime when the process has one too.
func (s *session) run(ctx context.Context) error {
	defer s.h.conn.Close()
	restore, err := s.makeRaw()
	if err != nil {
		return err
	}
	defer restore()

	output := make(chan error, 1)
	go func() { output <- s.copyOut() }()
	input := make(chan error, 1)
	if s.stdin != nil {
		go func() { input <- s.copyIn() }()
	} else {
		// Nothing will come. The half-close is left out: a server could take it for the client's death.
		close(input)
	}
	for {
		select {
		case err := <-output:
			return err
		case err, ok := <-input:
			if errors.Is(err, errDetached) {
				return err
			}
			if !ok {
				input = nil
				continue
			}
			input = nil // the process may write long after its input ended
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) makeRaw() (restore func(), err error) {
	fd, isTerminal := terminal(s.stdin)
	if !s.tty || !isTerminal || s.stdin == nil {
		return func() {}, nil
	}
	undo, err := tty.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare the terminal: %w", err)
	}
	return func() { undo() }, nil
}

func (s *session) copyOut() error {
	out, errOut := s.out, s.err
	if out == nil {
		out = io.Discard
	}
	if errOut == nil {
		errOut = io.Discard
	}
	if s.framed {
		var err error
		s.exit, err = demuxExit(out, errOut, s.h.in)
		return err
	}
	if !s.tty {
		return demux(out, errOut, s.h.in)
	}
	_, err := io.Copy(out, s.h.in)
	return err
}

// copyIn hands input on until it ends, which the process is told, or until the person detaches, which it is not: its
// input goes on when somebody attaches again.
func (s *session) copyIn() (err error) {
	defer func() {
		if !errors.Is(err, errDetached) {
			s.h.closeWrite()
		}
	}()
	if !s.tty {
		_, err := io.Copy(s.h.conn, s.stdin)
		return err
	}
	keys := s.detachKeys
	if keys == "" {
		keys = tty.DefaultDetachKeys
	}
	sequence, err := tty.ParseDetachKeys(keys)
	if err != nil {
		return err
	}
	scanner := tty.NewDetachScanner(sequence)
	in, out := make([]byte, 32<<10), make([]byte, 0, 33<<10)
	for {
		n, err := s.stdin.Read(in)
		var detached bool
		out, _, detached = scanner.Scan(out[:0], in[:n])
		if err != nil {
			out = scanner.Flush(out)
		}
		if len(out) > 0 {
			if _, err := s.h.conn.Write(out); err != nil {
				return err
			}
		}
		switch {
		case detached:
			return errDetached
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// watchSize tells resize the size of the person's terminal now and whenever it changes, until stop is called.
func (a *app) watchSize(now bool, resize func(rows, cols uint)) (stop func()) {
	fd, ok := terminal(a.Out)
	if !ok {
		return func() {}
	}
	tell := func() {
		if rows, cols, err := tty.Size(fd); err == nil && rows > 0 && cols > 0 {
			resize(uint(rows), uint(cols))
		}
	}
	changed := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		if now {
			tell()
		}
		for {
			select {
			case <-changed:
				tell()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(done)
	}
}

// consoleSize is the size of the person's terminal, or zeros.
func (a *app) consoleSize() (rows, cols uint) {
	if fd, ok := terminal(a.Out); ok {
		if r, c, err := tty.Size(fd); err == nil {
			return uint(r), uint(c)
		}
	}
	return 0, 0
}
