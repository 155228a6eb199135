package cli

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/berth-engine/berth/internal/berthapi"
)

// The frames of Docker's multiplexed streams: one byte for the stream, three of zero, four for the length in big
// endian, and so many bytes.
const (
	frameHeader  = 8
	frameStdin   = 0
	frameStdout  = 1
	frameStderr  = 2
	frameSysErr  = 3
	frameExit    = berthapi.ExitFrame
	demuxBufSize = 256 << 10
)

// demux takes a multiplexed stream apart. Payloads of neighbouring frames for the same stream are written together, so
// many short lines cost few system calls; nothing is held back while waiting for more.
func demux(out, errOut io.Writer, in io.Reader) error {
	_, err := take(out, errOut, in, frameSysErr)
	return err
}

// demuxExit does so with a stream that ends with an exit code. It is nil when the stream ended without.
func demuxExit(out, errOut io.Writer, in io.Reader) (code *int, err error) {
	return take(out, errOut, in, frameExit)
}

// take takes a stream apart whose frames are of kinds up to the last one.
func take(out, errOut io.Writer, in io.Reader, last byte) (code *int, err error) {
	buf := make([]byte, demuxBufSize)
	have := 0       // bytes read and not yet written
	var left uint32 // of the payload whose header was already taken
	var stream byte
	var message []byte // what a frameSysErr says
	var exit []byte    // what a frameExit says
	write := func(stream byte, b []byte) error {
		w := out
		switch {
		case len(b) == 0:
			return nil
		case stream == frameStderr:
			w = errOut
		case stream == frameSysErr:
			message = append(message, b...)
			return nil
		case stream == frameExit:
			exit = append(exit, b...)
			return nil
		}
		_, err := w.Write(b)
		return err
	}
	for {
		n, readErr := in.Read(buf[have:])
		have += n
		// Payloads move together to buf[start:end]; rest is where the next header begins.
		pos, start, end := 0, 0, 0
		current := stream
		for pos < have {
			if left == 0 {
				if have-pos < frameHeader {
					break
				}
				stream = buf[pos]
				if stream > last {
					return nil, fmt.Errorf("the daemon sent a damaged stream: unknown stream number %d", stream)
				}
				left = binary.BigEndian.Uint32(buf[pos+4:])
				pos += frameHeader
				if stream != current {
					if err := write(current, buf[start:end]); err != nil {
						return nil, err
					}
					start, end = pos, pos
					current = stream
				}
				continue
			}
			take := min(int(left), have-pos)
			if end == start {
				start, end = pos, pos // first payload of a run stays where it is
			}
			if end != pos {
				copy(buf[end:], buf[pos:pos+take])
			}
			end += take
			pos += take
			left -= uint32(take)
		}
		if err := write(current, buf[start:end]); err != nil {
			return nil, err
		}
		have = copy(buf, buf[pos:have])
		if message != nil && left == 0 {
			return nil, fmt.Errorf("error from daemon in stream: %s", message)
		}
		if len(exit) == 4 { // nothing follows it
			code := int(binary.BigEndian.Uint32(exit))
			return &code, nil
		}
		if len(exit) > 4 || exit != nil && left == 0 {
			return nil, fmt.Errorf("the daemon sent a damaged stream: an exit code of %d bytes", len(exit))
		}
		if readErr == io.EOF {
			if have > 0 || left > 0 {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, nil
		}
		if readErr != nil {
			return nil, readErr
		}
	}
}
