package image

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	kgzip "github.com/klauspost/compress/gzip"
)

// samples are streams of different kinds, some larger than the decoder's buffer.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	random, words, skewed := make([]byte, 300_000), &bytes.Buffer{}, make([]byte, 500_000)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	for words.Len() < 700_000 {
		fmt.Fprintf(words, "%s %d ", strings.Repeat("ab", r.IntN(9)), r.IntN(5000))
	}
	for i := range skewed {
		skewed[i] = byte(r.ExpFloat64() * 12)
	}
	far := append(bytes.Repeat(random[:32700], 9), random[:99]...)
	return map[string][]byte{"empty": {}, "one": {7}, "zeros": make([]byte, 400_000), "random": random,
		"words": words.Bytes(), "skewed": skewed,
		"far": far, "period3": bytes.Repeat([]byte("abc"), 99_999), "period7": bytes.Repeat([]byte("abcdefg"), 50_001)}
}

func inflateAll(r io.Reader) ([]byte, error) {
	z, err := newInflater(r)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func TestInflate(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 4
	}
	for name, data := range samples() {
		for level := -2; level <= 9; level += step {
			var buf bytes.Buffer
			w, err := gzip.NewWriterLevel(&buf, level)
			must(t, err)
			w.Name, w.Comment, w.Extra = "a name", "a comment", []byte("extra")
			_, err = w.Write(data)
			must(t, err)
			must(t, w.Close())
			k, err := kgzip.NewWriterLevel(&buf, max(level, 1)) // a second member, by another encoder
			must(t, err)
			_, err = k.Write(data)
			must(t, err)
			must(t, k.Flush())
			must(t, k.Close())
			want := append(bytes.Clone(data), data...)
			for kind, r := range map[string]io.Reader{"": bytes.NewReader(buf.Bytes()),
				"in halves":    iotest.HalfReader(bytes.NewReader(buf.Bytes())),
				"with the end": iotest.DataErrReader(bytes.NewReader(buf.Bytes()))} {
				got, err := inflateAll(r)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%s, level %d %s: %d bytes, %v", name, level, kind, len(got), err)
				}
			}
			if len(data) < 2 {
				got, err := inflateAll(iotest.OneByteReader(bytes.NewReader(buf.Bytes())))
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%s, level %d bytewise: %v", name, level, err)
				}
			}
		}
	}
}

func TestInflateDamaged(t *testing.T) {
	data := samples()["words"][:20_000]
	good := gzipped(t, data)
	for i := range good {
		if _, err := inflateAll(bytes.NewReader(good[:i])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	for i := 0; i < len(good); i += 7 {
		bad := bytes.Clone(good)
		bad[i] ^= 0x55
		compare(t, bad)
	}
	boom := errors.New("boom")
	if _, err := inflateAll(io.MultiReader(bytes.NewReader(good[:1000]), iotest.ErrReader(boom))); !errors.Is(err,
		boom) {
		t.Errorf("an error of the source: %v", err)
	}
}

// compare checks that a stream means to us what it means to the standard library.
func compare(t *testing.T, data []byte) {
	t.Helper()
	var want []byte
	std, werr := gzip.NewReader(bytes.NewReader(data))
	if werr == nil {
		want, werr = io.ReadAll(io.LimitReader(std, 8<<20))
	}
	var got []byte
	z, err := newInflater(bytes.NewReader(data))
	if err == nil {
		got, err = io.ReadAll(io.LimitReader(z, 8<<20))
	}
	if (err == nil) != (werr == nil) || err == nil && !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; the standard library: %d bytes, %v", len(got), err, len(want), werr)
	}
}

func FuzzInflate(f *testing.F) {
	for _, data := range samples() {
		f.Add(gzipped(f, data[:min(len(data), 3000)]), true)
	}
	f.Add([]byte{0x05, 0xe0, 0x81, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, data []byte, whole bool) {
		if whole {
			compare(t, data)
			return
		}
		// A bare stream, with the header and the checksum it ought to have, gets deeper.
		plain, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(data)), 1<<20))
		stream := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, data...)
		if err == nil {
			crc, n := crc32.ChecksumIEEE(plain), len(plain)
			stream = append(stream, byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24), byte(n), byte(n>>8),
				byte(n>>16), byte(n>>24))
		}
		compare(t, stream)
	})
}

// BenchmarkInflate decodes the files *.tar.gz of the directory BERTH_BENCH_LAYERS, or a made-up one.
func BenchmarkInflate(b *testing.B) {
	data := gzipped(b, bytes.Repeat(samples()["words"], 10))
	if files, _ := filepath.Glob(filepath.Join(os.Getenv("BERTH_BENCH_LAYERS"), "*.tar.gz")); len(files) > 0 {
		var err error
		data, err = os.ReadFile(files[0])
		must(b, err)
	}
	buf := make([]byte, pumpBuffer)
	run := func(b *testing.B, open func() (io.Reader, error)) {
		for b.Loop() {
			r, err := open()
			must(b, err)
			n, err := io.CopyBuffer(onlyWriter{io.Discard}, struct{ io.Reader }{r}, buf)
			must(b, err)
			b.SetBytes(n)
		}
	}
	b.Run("berth", func(b *testing.B) {
		run(b, func() (io.Reader,
			error) {
			return newInflater(bytes.NewReader(data))
		})
	})
	b.Run("standard", func(b *testing.B) {
		run(b, func() (io.Reader,
			error) {
			return gzip.NewReader(bytes.NewReader(data))
		})
	})
	b.Run("klauspost", func(b *testing.B) {
		run(b, func() (io.Reader, error) { return kgzip.NewReader(bytes.NewReader(data)) })
	})
}

type onlyWriter struct{ io.Writer }
