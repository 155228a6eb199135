// Package decompress reads streams that a client may have compressed, as the archives of `docker cp -`. It chooses by
// the stream's first bytes, never by a name or header, runs no program to do so (CVE-2026-41567) and bounds the memory
// a stream may ask for. It owns no state. The command line links no decoder: only the daemon meets such streams.
package decompress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is the most memory, in bytes, that a zstd stream's window may take.
const maxWindow = 128 << 20

// Reader gives the content of a stream that is plain or compressed by gzip, bzip2 or zstd; the caller closes it. What it
// cannot read is errdefs.ErrInvalidArgument, here or when it is met. Errors of r itself are passed on.
func Reader(r io.Reader) (io.ReadCloser, error) {
	src := &source{r: r}
	b := bufio.NewReaderSize(src, 64<<10)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	d := &reader{src: src, Reader: b, close: func() {}}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		d.kind = "gzip"
		d.Reader, err = gzip.NewReader(b)
		if err != nil {
			return nil, d.explain(err)
		}
	case bytes.HasPrefix(head, []byte("BZh")):
		d.kind, d.Reader = "bzip2", bzip2.NewReader(b)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d.kind = "zstd"
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, d.explain(err)
		}
		d.Reader, d.close = z, z.Close
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, invalid{errors.New("the archive is compressed by xz, which is not unpacked here; send it as gzip or zstd")}
	}
	return d, nil
}

type reader struct {
	io.Reader
	src   *source
	kind  string // "" is plain
	close func()
}

func (d *reader) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = d.explain(err)
	}
	return n, err
}

func (d *reader) Close() error {
	d.close()
	return nil
}

// explain tells a damaged stream from a source that broke off.
func (d *reader) explain(err error) error {
	if d.src.err != nil {
		return d.src.err
	}
	if d.kind == "" {
		return err
	}
	return invalid{fmt.Errorf("the archive is not valid %s: %w", d.kind, err)}
}

// source remembers the error its stream ended with.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// invalid is an error of the client's.
type invalid struct{ error }

func (e invalid) Unwrap() []error { return []error{e.error, errdefs.ErrInvalidArgument} }
