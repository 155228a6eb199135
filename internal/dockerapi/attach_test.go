package dockerapi

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/pkg/stdcopy"
	"golang.org/x/net/websocket"
)

// rawServer answers every request with do, on a unix socket as the daemon does.
func rawServer(t *testing.T, do func(*call)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.55")
		_, _ = parseQuery(r)
		do(&call{w: w, r: r, version: MaxVersion})
	})
	srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: handler}}
	srv.Start()
	t.Cleanup(srv.Close)
	return path
}

func dial(t *testing.T, path, request string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func TestHijack(t *testing.T) {
	for _, tty := range []bool{false, true} {
		path := rawServer(t, func(c *call) {
			hj := c.hijack(tty)
			defer hj.close()
			conn, ahead, err := hj.open()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			// Input that was sent together with the request must not be lost.
			rest := make([]byte, 5-len(ahead))
			if _, err := io.ReadFull(conn, rest); err != nil {
				t.Error(err)
			}
			_, _ = conn.Write([]byte(strings.ToUpper(string(ahead) + string(rest))))
		})
		// A body, which some clients send, is not input.
		_, r := dial(t, path, "POST /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}hello")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := "application/vnd.docker.multiplexed-stream"
		if tty {
			want = "application/vnd.docker.raw-stream"
		}
		if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "tcp" || resp.Header.Get("Content-Type") != want ||
			resp.Header.Get("Api-Version") != "1.55" {
			t.Errorf("%s %v", resp.Status, resp.Header)
		}
		if out, _ := io.ReadAll(r); string(out) != "HELLO" {
			t.Errorf("stream: %q", out)
		}
	}
}

// docker-py attaches without asking for an upgrade and reads the body of a 200.
func TestHijackWithoutUpgrade(t *testing.T) {
	path := rawServer(t, func(c *call) {
		hj := c.hijack(false)
		defer hj.close()
		if conn, _, err := hj.open(); err == nil {
			_, _ = conn.Write([]byte("out"))
			_ = conn.Close()
		}
	})
	_, r := dial(t, path, "POST /x HTTP/1.1\r\nHost: x\r\n\r\n")
	out, _ := io.ReadAll(r)
	if !strings.HasPrefix(string(out), "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n") ||
		!strings.HasSuffix(string(out), "\r\n\r\nout") {
		t.Errorf("%q", out)
	}
}

// An exec that cannot be started says so in its stream, whoever opened it.
func TestHijackTells(t *testing.T) {
	for _, opened := range []bool{false, true} {
		path := rawServer(t, func(c *call) {
			hj := c.hijack(false)
			defer hj.close()
			if opened {
				conn, _, err := hj.open()
				if err != nil {
					t.Error(err)
				}
				_ = conn.Close() // as the engine does when it has failed
			}
			hj.tell(errors.New("no such program"))
		})
		_, r := dial(t, path, "POST /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		if _, err := http.ReadResponse(r, nil); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if _, err := stdcopy.StdCopy(&out, io.Discard, r); err != nil || out.String() != "no such program\r\n" {
			t.Errorf("opened %t: %q, %v", opened, out.String(), err)
		}
	}
}

func TestWebsocketPump(t *testing.T) {
	for _, tty := range []bool{true, false} {
		srv := httptest.NewServer(websocket.Handler(func(ws *websocket.Conn) {
			ours, theirs, err := socketPair()
			if err != nil {
				t.Error(err)
				return
			}
			go func() { // the container: answers its input in capitals and ends
				defer theirs.Close()
				buf := make([]byte, 5)
				_, _ = io.ReadFull(theirs, buf)
				out := []byte(strings.ToUpper(string(buf)))
				if !tty {
					out = frame(nil, 1, out)
				}
				_, _ = theirs.Write(out)
			}()
			ws.PayloadType = websocket.BinaryFrame
			pump(ws, ours, tty)
		}))
		ws, err := websocket.Dial(strings.Replace(srv.URL, "http", "ws", 1), "", srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = ws.Write([]byte("hello"))
		if out, _ := io.ReadAll(ws); string(out) != "HELLO" {
			t.Errorf("tty %t: %q", tty, out)
		}
		_ = ws.Close()
		srv.Close()
	}
}
