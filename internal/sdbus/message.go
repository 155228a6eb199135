package sdbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

const (
	typeCall, typeReply, typeError, typeSignal = 1, 2, 3, 4

	fieldPath, fieldInterface, fieldMember, fieldErrorName = 1, 2, 3, 4
	fieldReplySerial, fieldDestination, fieldSignature     = 5, 6, 8

	noAutoStart = 2 // a bus that has no systemd says so, and does not wait for one

	fixedHeader = 16
	maxBody     = 1 << 20
	maxFields   = 64 << 10
)

// encoder appends values in little-endian order, each at its alignment.
type encoder struct{ b []byte }

func (e *encoder) align(n int) {
	for len(e.b)%n != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) u32(n uint32) {
	e.align(4)
	e.b = binary.LittleEndian.AppendUint32(e.b, n)
}

func (e *encoder) u64(n uint64) {
	e.align(8)
	e.b = binary.LittleEndian.AppendUint64(e.b, n)
}

func (e *encoder) str(s string) {
	e.u32(uint32(len(s)))
	e.b = append(append(e.b, s...), 0)
}

func (e *encoder) signature(s string) {
	e.b = append(append(append(e.b, byte(len(s))), s...), 0)
}

func (e *encoder) boolean(v bool) {
	if v {
		e.u32(1)
	} else {
		e.u32(0)
	}
}

// array writes an array whose elements are aligned to n; the padding before the first does not count.
func (e *encoder) array(n int, elements func()) {
	e.u32(0)
	at := len(e.b) - 4
	e.align(n)
	start := len(e.b)
	elements()
	binary.LittleEndian.PutUint32(e.b[at:], uint32(len(e.b)-start))
}

// properties writes an array of (name, variant).
func (e *encoder) properties(list []Property) error {
	var err error
	e.array(8, func() {
		for _, p := range list {
			e.align(8)
			e.str(p.Name)
			if verr := e.variant(p.Value); verr != nil {
				err = fmt.Errorf("property %q: %w", p.Name, verr)
			}
		}
	})
	return err
}

func (e *encoder) variant(value any) error {
	switch v := value.(type) {
	case string:
		e.signature("s")
		e.str(v)
	case bool:
		e.signature("b")
		e.boolean(v)
	case uint64:
		e.signature("t")
		e.u64(v)
	case []uint32:
		e.signature("au")
		e.array(4, func() {
			for _, n := range v {
				e.u32(n)
			}
		})
	case []byte:
		e.signature("ay")
		e.array(1, func() { e.b = append(e.b, v...) })
	default:
		return fmt.Errorf("%T has no type of D-Bus here", value)
	}
	return nil
}

// call makes the message of a method call.
func call(serial uint32, to target, member, signature string, body []byte) []byte {
	e := &encoder{b: []byte{'l', typeCall, noAutoStart, 1}}
	e.u32(uint32(len(body)))
	e.u32(serial)
	e.array(8, func() {
		field := func(code byte, kind, value string) {
			e.align(8)
			e.b = append(e.b, code)
			e.signature(kind)
			if kind == "g" {
				e.signature(value)
			} else {
				e.str(value)
			}
		}
		field(fieldPath, "o", to.path)
		field(fieldInterface, "s", to.iface)
		field(fieldMember, "s", member)
		field(fieldDestination, "s", to.name)
		if signature != "" {
			field(fieldSignature, "g", signature)
		}
	})
	e.align(8)
	return append(e.b, body...)
}

// message is what came.
type message struct {
	kind        byte
	replySerial uint32
	iface       string
	member      string
	errorName   string
	signature   string
	body        decoder
}

var errCut = errors.New("a D-Bus message ends in the middle of a value")

// readMessage reads one message.
func readMessage(r io.Reader) (*message, error) {
	head := make([]byte, fixedHeader)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch head[0] {
	case 'l':
	case 'B':
		order = binary.BigEndian
	default:
		return nil, fmt.Errorf("a D-Bus message begins with byte %#x, which is no byte order", head[0])
	}
	if head[3] != 1 {
		return nil, fmt.Errorf("a D-Bus message has protocol version %d and not 1", head[3])
	}
	body, fields := order.Uint32(head[4:]), order.Uint32(head[12:])
	if body > maxBody || fields > maxFields {
		return nil, fmt.Errorf("a D-Bus message of %d bytes with %d bytes of fields is too large", body, fields)
	}
	padded := (int(fields) + 7) &^ 7
	rest := make([]byte, padded+int(body))
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, err
	}
	m := &message{kind: head[1], body: decoder{b: rest[padded:], order: order}}
	return m, m.fields(&decoder{b: rest[:fields], order: order})
}

// fields reads the header's fields. Their offsets count from a multiple of eight, so alignment is that of the slice.
func (m *message) fields(d *decoder) error {
	for d.align(8); d.err == nil && d.at < len(d.b); d.align(8) {
		code, kind := d.u8(), d.signature()
		var text string
		var number uint32
		switch kind {
		case "s", "o":
			text = d.str()
		case "g":
			text = d.signature()
		case "u":
			number = d.u32()
		default:
			if d.err == nil {
				return fmt.Errorf("field %d of a D-Bus message has the type %q", code, kind)
			}
		}
		switch code {
		case fieldInterface:
			m.iface = text
		case fieldMember:
			m.member = text
		case fieldErrorName:
			m.errorName = text
		case fieldSignature:
			m.signature = text
		case fieldReplySerial:
			m.replySerial = number
		}
	}
	return d.err
}

// decoder reads values; after the first error everything is zero.
type decoder struct {
	b     []byte
	at    int
	order binary.ByteOrder
	err   error
}

// align skips padding; nothing but padding may be missing at the end.
func (d *decoder) align(n int) {
	d.at = min((d.at+n-1)/n*n, len(d.b))
}

func (d *decoder) take(n uint32) []byte {
	if d.err != nil || n > math.MaxInt32 || int(n) > len(d.b)-d.at {
		d.err = errCut
		return nil
	}
	b := d.b[d.at : d.at+int(n)]
	d.at += int(n)
	return b
}

func (d *decoder) u8() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	d.align(4)
	if b := d.take(4); b != nil {
		return d.order.Uint32(b)
	}
	return 0
}

// text is n bytes and the zero after them.
func (d *decoder) text(n uint32) string {
	s := string(d.take(n))
	if end := d.take(1); end != nil && end[0] != 0 {
		d.err = errors.New("a D-Bus string does not end with a zero")
	}
	if d.err != nil {
		return ""
	}
	return s
}

func (d *decoder) str() string { return d.text(d.u32()) }

func (d *decoder) signature() string { return d.text(uint32(d.u8())) }
