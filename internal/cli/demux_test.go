package cli

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/moby/moby/api/pkg/stdcopy"
)

func TestDemuxTakesStreamsApart(t *testing.T) {
	long := strings.Repeat("y", 3*demuxBufSize)
	in := frame(1, "a") + frame(2, "b") + frame(1, "") + frame(1, long) + frame(0, "stdin") + frame(2, "end")
	for name, reader := range map[string]io.Reader{"whole": strings.NewReader(in), "bytes": iotest.OneByteReader(strings.NewReader(in)),
		"halves": iotest.HalfReader(strings.NewReader(in)), "late end": iotest.DataErrReader(strings.NewReader(in))} {
		var out, errOut bytes.Buffer
		if err := demux(&out, &errOut, reader); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if out.String() != "a"+long+"stdin" || errOut.String() != "bend" {
			t.Errorf("%s: %d and %d bytes", name, out.Len(), errOut.Len())
		}
	}
}

func TestDemuxReportsTheServersError(t *testing.T) {
	var out bytes.Buffer
	err := demux(&out, io.Discard, strings.NewReader(frame(1, "a\n")+frame(3, "the log is gone")))
	if err == nil || err.Error() != "error from daemon in stream: the log is gone" || out.String() != "a\n" {
		t.Errorf("%v, output %q", err, out.String())
	}
}

func TestDemuxNoticesDamage(t *testing.T) {
	if err := demux(io.Discard, io.Discard, strings.NewReader("not a stream at all")); err == nil {
		t.Error("a stream of unknown number was accepted")
	}
	for _, in := range []string{"\x01\x00\x00", frame(1, "abc")[:9]} {
		if err := demux(io.Discard, io.Discard, strings.NewReader(in)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestDemuxTakesTheExitCode(t *testing.T) {
	code := func(b string) string { return frame(berthapi.ExitFrame, b) }
	for in, want := range map[string]int{
		frame(1, "a") + code("\x00\x00\x00\x2a"): 42,
		code("\x00\x00\x00\x00"):                 0,
		code("\x00\x00\x01\x00"):                 256,
	} {
		for _, reader := range []io.Reader{strings.NewReader(in), iotest.OneByteReader(strings.NewReader(in))} {
			if got, err := demuxExit(io.Discard, io.Discard, reader); err != nil || got == nil || *got != want {
				t.Errorf("%q: %v, %v", in, got, err)
			}
		}
	}
	if got, err := demuxExit(io.Discard, io.Discard, strings.NewReader(frame(1, "a"))); got != nil || err != nil {
		t.Errorf("a stream without a code: %v, %v", got, err)
	}
	for _, in := range []string{code("\x00"), code("\x00\x00\x00\x00\x00"), code("\x00\x00\x00\x00")[:10], frame(5, "x")} {
		if got, err := demuxExit(io.Discard, io.Discard, strings.NewReader(in)); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
	// Docker's streams have none.
	if err := demux(io.Discard, io.Discard, strings.NewReader(code("\x00\x00\x00\x00"))); err == nil {
		t.Error("an exit code in one of Docker's streams was accepted")
	}
}

// Many short lines become few writes.
func TestDemuxWritesNeighboursTogether(t *testing.T) {
	var w countingWriter
	if err := demux(&w, io.Discard, strings.NewReader(strings.Repeat(frame(1, "line\n"), 1000))); err != nil {
		t.Fatal(err)
	}
	if w.bytes != 5000 || w.writes > 4 {
		t.Errorf("%d bytes in %d writes", w.bytes, w.writes)
	}
}

// Nothing is held back while more is awaited.
func TestDemuxDoesNotWait(t *testing.T) {
	r, w := io.Pipe()
	got := make(chan string)
	go demux(writerFunc(func(p []byte) (int, error) { got <- string(p); return len(p), nil }), io.Discard, r)
	go io.WriteString(w, frame(1, "first")+"\x01\x00\x00\x00\x00\x00\x00\x06se")
	if s := <-got; s != "firstse" && s != "first" {
		t.Errorf("got %q", s)
	}
	w.Close()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type countingWriter struct{ bytes, writes int }

func (c *countingWriter) Write(p []byte) (int, error) {
	c.bytes += len(p)
	c.writes++
	return len(p), nil
}

// However a stream is cut, demux finds what the API's own decoder finds.
func FuzzDemux(f *testing.F) {
	f.Add([]byte(frame(1, "a")+frame(2, "b")), 3)
	f.Add([]byte(frame(1, "abc")+frame(1, "d")+frame(0, "x")), 1)
	f.Add([]byte{1, 0, 0, 0, 255, 255, 255, 255}, 2)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		if size < 1 || size > len(in)+1 || len(in) > 4096 {
			return
		}
		for i := 0; i+8 <= len(in) && i < 64; i++ {
			if in[i+4] != 0 {
				return // the other decoder would allocate gigabytes
			}
		}
		var out, errOut bytes.Buffer
		err := demux(&out, &errOut, &pieces{in, size})
		var wantOut, wantErr bytes.Buffer
		_, want := stdcopy.StdCopy(&wantOut, &wantErr, bytes.NewReader(in))
		if err != nil || want != nil {
			return
		}
		if !bytes.Equal(out.Bytes(), wantOut.Bytes()) || !bytes.Equal(errOut.Bytes(), wantErr.Bytes()) {
			t.Errorf("%q: %q and %q, wanted %q and %q", in, out.Bytes(), errOut.Bytes(), wantOut.Bytes(), wantErr.Bytes())
		}
	})
}

type pieces struct {
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func BenchmarkDemuxShortLines(b *testing.B) {
	in := []byte(strings.Repeat(frame(1, strings.Repeat("x", 99)+"\n"), 10_000))
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if err := demux(io.Discard, io.Discard, bytes.NewReader(in)); err != nil {
			b.Fatal(err)
		}
	}
}
