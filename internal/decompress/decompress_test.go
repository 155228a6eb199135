package decompress

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
)

const text = "the same text, however it comes\n"

func streams(t testing.TB) map[string][]byte {
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	io.WriteString(w, text)
	w.Close()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bz, err := base64.StdEncoding.DecodeString(bzipped)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"plain": []byte(text), "gzip": gz.Bytes(), "zstd": enc.EncodeAll([]byte(text), nil), "bzip2": bz}
}

// bzipped is text through bzip2, which Go only reads.
const bzipped = "QlpoOTFBWSZTWdpwQgwAAA5RgAAQQAQqYp3AIAAhqaMTTAhTAATSJOWHDX0UVqEEXTOEvN4fS+LuSKcKEhtOCEGA"

func TestReader(t *testing.T) {
	for kind, data := range streams(t) {
		r, err := Reader(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", kind, got, err)
		}
		r.Close()
	}
	if r, err := Reader(strings.NewReader("")); err != nil {
		t.Errorf("nothing at all: %v", err)
	} else if got, err := io.ReadAll(r); err != nil || len(got) > 0 {
		t.Errorf("nothing at all: %q, %v", got, err)
	}
}

func TestDamaged(t *testing.T) {
	for kind, data := range streams(t) {
		if kind == "plain" {
			continue
		}
		short := data[:len(data)-6]
		other := bytes.Clone(data)
		for i := 8; i < len(other); i++ {
			other[i] ^= 0xff
		}
		for _, bad := range [][]byte{short, other, data[:5]} {
			r, err := Reader(bytes.NewReader(bad))
			if err == nil {
				_, err = io.ReadAll(r)
				r.Close()
			}
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "the archive is not valid "+kind) {
				t.Errorf("%s, damaged: %v", kind, err)
			}
		}
	}
	if _, err := Reader(strings.NewReader("\xfd7zXZ\x00 and so on")); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "xz") {
		t.Errorf("xz: %v", err)
	}
}

// A client that goes away in the middle did not send a damaged archive.
func TestSourceFails(t *testing.T) {
	gone := errors.New("the client went away")
	for kind, data := range streams(t) {
		for _, at := range []int{3, len(data) - 1} {
			r, err := Reader(io.MultiReader(bytes.NewReader(data[:at]), failing{gone}))
			if err == nil {
				_, err = io.ReadAll(r)
				r.Close()
			}
			if !errors.Is(err, gone) || errdefs.IsInvalidArgument(err) {
				t.Errorf("%s, broken off at %d: %v", kind, at, err)
			}
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A zstd frame that asks for a window of 2 GiB is refused before it has the memory.
func TestWindow(t *testing.T) {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00}
	r, err := Reader(bytes.NewReader(frame))
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("a window of 2 GiB: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	for _, data := range streams(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Reader(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer r.Close()
		io.Copy(io.Discard, io.LimitReader(r, 1<<20))
	})
}
