package monitor

import (
	"encoding/binary"
	"errors"
	"time"
)

// op is what a message is about.
type op uint8

// Requests.
const (
	opStart op = 1 + iota
	opAttach
	opExec
	opSignal
	opResize
	opAck
)

// Answers and news.
const (
	opHello op = 64 + iota
	opFailed
	opReply
	opEvent
	opEnd
)

// opLarge stands for a message that is in the file beside it.
const opLarge op = 127

const (
	headerSize = 8
	// maxMessage is the largest message that is sent as it is: well below the socket buffers' default.
	maxMessage = 64 << 10
	// maxLarge is the largest message at all.
	maxLarge = 16 << 20
)

// Flags of attach options.
const (
	flagStdin = 1 << iota
	flagStdout
	flagStderr
	flagMux
	flagExit
)

// Abilities of a monitor, as its hello tells.
const canTellExit = 1

// Flags of an exec.
const (
	flagTerminal = 1 << iota
	flagOpenStdin
)

// failure is the kind of an error in a reply.
type failure uint32

const (
	ok failure = iota
	failedNotFound
	failedInvalid
	failedConflict
	failedOther
	// failedStart plus an exit code is a StartError.
	failedStart failure = 1000
)

// reason is why a stream is over.
type reason uint32

const (
	endClosed   reason = iota // the process or the client ended
	endDetached               // the detach keys were typed
)

// kinds are the event kinds by their numbers on the wire.
var kinds = [...]EventKind{1: EventExit, 2: EventExecExit, 3: EventOOM, 4: EventDetach}

func kindNumber(k EventKind) uint32 {
	for i, known := range kinds {
		if k == known {
			return uint32(i)
		}
	}
	return 0
}

// packer appends fields to a message.
type packer struct{ b []byte }

func pack(o op, id uint32) *packer {
	p := &packer{make([]byte, headerSize, 128)}
	p.b[0] = byte(o)
	binary.LittleEndian.PutUint32(p.b[4:], id)
	return p
}

func (p *packer) num(v uint32)   { p.b = binary.LittleEndian.AppendUint32(p.b, v) }
func (p *packer) long(v uint64)  { p.b = binary.LittleEndian.AppendUint64(p.b, v) }
func (p *packer) bytes(v []byte) { p.num(uint32(len(v))); p.b = append(p.b, v...) }
func (p *packer) str(v string)   { p.num(uint32(len(v))); p.b = append(p.b, v...) }
func (p *packer) flag(v bool) {
	if v {
		p.num(1)
	} else {
		p.num(0)
	}
}

// unpacker takes fields from a message. Past the end it gives zero values.
type unpacker struct {
	b   []byte
	bad bool // a field was cut short
}

var errMessage = errors.New("a message that makes no sense")

// unpack splits a message into its header and its fields.
func unpack(msg []byte) (o op, id uint32, u *unpacker, err error) {
	if len(msg) < headerSize {
		return 0, 0, nil, errMessage
	}
	return op(msg[0]), binary.LittleEndian.Uint32(msg[4:]), &unpacker{b: msg[headerSize:]}, nil
}

func (u *unpacker) take(n int) []byte {
	if len(u.b) == 0 && n > 0 {
		return nil // an older sender
	}
	if n > len(u.b) {
		u.b, u.bad = nil, true
		return nil
	}
	v := u.b[:n:n]
	u.b = u.b[n:]
	return v
}

func (u *unpacker) num() uint32 {
	if b := u.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (u *unpacker) long() uint64 {
	if b := u.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// bytes is valid as long as the message is.
func (u *unpacker) bytes() []byte {
	n := u.num()
	if uint64(n) > uint64(len(u.b)) {
		u.b, u.bad = nil, true
		return nil
	}
	return u.take(int(n))
}

func (u *unpacker) str() string { return string(u.bytes()) }
func (u *unpacker) flag() bool  { return u.num() != 0 }
func (u *unpacker) time() time.Time {
	if n := int64(u.long()); n != 0 {
		return time.Unix(0, n).UTC()
	}
	return time.Time{}
}

func (p *packer) time(t time.Time) {
	if t.IsZero() {
		p.long(0)
	} else {
		p.long(uint64(t.UnixNano()))
	}
}

func bit(on bool, b uint32) uint32 {
	if on {
		return b
	}
	return 0
}

// options packs how a stream is attached.
func (p *packer) options(stream uint32, o AttachOptions) {
	p.num(stream)
	p.num(bit(o.Stdin, flagStdin) | bit(o.Stdout, flagStdout) | bit(o.Stderr, flagStderr) | bit(o.Mux, flagMux) | bit(o.Exit, flagExit))
	p.bytes(o.DetachKeys)
	p.num(uint32(o.Rows))
	p.num(uint32(o.Cols))
}

func (u *unpacker) options() (stream uint32, o AttachOptions) {
	stream = u.num()
	flags := u.num()
	o.Stdin, o.Stdout = flags&flagStdin != 0, flags&flagStdout != 0
	o.Stderr, o.Mux, o.Exit = flags&flagStderr != 0, flags&flagMux != 0, flags&flagExit != 0
	o.DetachKeys = append([]byte(nil), u.bytes()...)
	o.Rows, o.Cols = uint16(u.num()), uint16(u.num())
	return stream, o
}

func (p *packer) exit(x Exit) {
	p.num(uint32(x.Code))
	p.num(uint32(x.Signal))
	p.flag(x.OOMKilled)
	p.long(x.OOMKills)
	p.time(x.FinishedAt)
	p.str(x.Error)
}

func (u *unpacker) exit() (x Exit) {
	x.Code, x.Signal = int(u.num()), int(u.num())
	x.OOMKilled, x.OOMKills = u.flag(), u.long()
	x.FinishedAt, x.Error = u.time(), u.str()
	return x
}
