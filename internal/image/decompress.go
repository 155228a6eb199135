package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory a zstd stream may ask for.
const maxWindow = 128 << 20

// decompress finds out by its first bytes how a stream is compressed. Close must be called on the result.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := newInflater(b)
		if err != nil {
			return nil, damaged("gzip", err)
		}
		return &decompressor{z, func() {}, "gzip"}, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) > 3 && head[0]&0xf0 == 0x50 &&
		head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18:
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, damaged("zstd", err)
		}
		return &decompressor{z, z.Close, "zstd"}, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return &decompressor{bzip2.NewReader(b), func() {}, "bzip2"}, nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, badImage("it is compressed by xz, which is not supported: decompress it first")
	}
	return io.NopCloser(b), nil
}

// decompressor says in its errors what is damaged.
type decompressor struct {
	io.Reader
	close func()
	kind  string
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = damaged(d.kind, err)
	}
	return n, err
}

func (d *decompressor) Close() error {
	d.close()
	return nil
}

// damaged explains an error of a decoder, unless it is the source's.
func damaged(kind string, err error) error {
	var own *sourceError
	if errors.As(err, &own) {
		return err
	}
	return badImage("its %s stream is damaged: %w", kind, err)
}

// sourceError marks an error of the source of a stream, as opposed to one in its content.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }
