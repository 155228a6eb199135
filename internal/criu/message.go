package criu

import (
	"encoding/binary"
	"errors"
	"math"
)

// message is a protocol buffer: fields one after the other, each a number, a kind of value, and the value.
//
//	tag = number<<3 | kind, as a varint
//	kind 0: a varint       kind 2: a length as a varint, and that many bytes
//	kind 1: 8 bytes        kind 5: 4 bytes
type message []byte

const (
	kindVarint = 0
	kindEight  = 1
	kindBytes  = 2
	kindFour   = 5
)

func (m *message) tag(field, kind int) { *m = binary.AppendUvarint(*m, uint64(field)<<3|uint64(kind)) }

// number adds a whole number or a value of an enumeration; negative ones take ten bytes.
//
//go:noinline // or encode is four times as long
func (m *message) number(field int, n int64) {
	m.tag(field, kindVarint)
	*m = binary.AppendUvarint(*m, uint64(n))
}

// flag adds a bool that is true.
//
//go:noinline
func (m *message) flag(field int, v bool) {
	if v {
		m.number(field, 1)
	}
}

// text adds a string that is not empty.
//
//go:noinline
func (m *message) text(field int, s string) {
	if s != "" {
		m.bytes(field, []byte(s))
	}
}

func (m *message) bytes(field int, b []byte) {
	m.tag(field, kindBytes)
	*m = append(binary.AppendUvarint(*m, uint64(len(b))), b...)
}

var errMalformed = errors.New("criu's answer cannot be understood")

// each calls visit for every field; number is the value of a varint, data that of bytes.
func (m message) each(visit func(field int, number uint64, data message) error) error {
	for len(m) > 0 {
		tag, n := binary.Uvarint(m)
		if n <= 0 || tag>>3 == 0 || tag>>3 > math.MaxInt32 {
			return errMalformed
		}
		m = m[n:]
		var number uint64
		var data message
		switch tag & 7 {
		case kindVarint:
			if number, n = binary.Uvarint(m); n <= 0 {
				return errMalformed
			}
			m = m[n:]
		case kindBytes:
			size, n := binary.Uvarint(m)
			if n <= 0 || size > uint64(len(m)-n) {
				return errMalformed
			}
			data, m = m[n:n+int(size)], m[n+int(size):]
		case kindEight, kindFour:
			size := 8
			if tag&7 == kindFour {
				size = 4
			}
			if len(m) < size {
				return errMalformed
			}
			m = m[size:]
		default:
			return errMalformed
		}
		if err := visit(int(tag>>3), number, data); err != nil {
			return err
		}
	}
	return nil
}

// request is criu_req.
func request(kind Kind, o *Options, success bool) message {
	var m message
	m.number(1, int64(kind))
	if o != nil {
		m.bytes(2, o.encode())
	}
	if kind == notify {
		m.number(3, int64(b2i(success)))
	}
	if kind == Features {
		var f message
		f.flag(1, true) // mem_track
		f.flag(2, true) // lazy_pages
		m.bytes(5, f)
	}
	return m
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// inherited are the files that criu gets, in the order of their numbers there; nil has none.
func (o *Options) inherited() []Inherit {
	if o == nil {
		return nil
	}
	return o.Inherit
}

// firstInherited is criu's number of the first of them, after its socket.
const firstInherited = 4

// encode is criu_opts.
func (o *Options) encode() message {
	const verbose = 4
	var m message
	if o.ImagesDir != nil {
		m.number(1, int64(o.ImagesDir.Fd()))
	} else {
		m.number(1, -1)
	}
	if o.Pid != 0 {
		m.number(2, int64(o.Pid))
	}
	m.flag(3, o.LeaveRunning)
	m.flag(4, o.ExtUnixSk)
	m.flag(5, o.TCPEstablished)
	m.flag(6, o.EvasiveDevices)
	m.flag(7, o.ShellJob)
	m.flag(8, o.FileLocks)
	m.number(9, verbose)
	m.text(10, o.LogFile)
	if p := o.PageServer; p != nil {
		var ps message
		ps.text(1, p.Address)
		ps.number(2, int64(p.Port))
		m.bytes(11, ps)
	}
	m.flag(12, o.NotifyScripts)
	m.text(13, o.Root)
	m.text(14, o.ParentImage)
	m.flag(15, o.TrackMem)
	m.flag(16, o.AutoDedup)
	if o.WorkDir != nil {
		m.number(17, int64(o.WorkDir.Fd()))
	}
	m.flag(18, o.LinkRemap)
	for _, p := range o.ExternalMounts {
		m.bytes(23, pair(1, p.Key, 2, p.Value))
	}
	m.flag(24, true) // what old ones want to hear before 34
	for _, p := range o.CgroupRoots {
		m.bytes(25, pair(1, p.Key, 2, p.Value))
	}
	m.flag(26, o.RestoreSibling)
	for i, in := range o.Inherit {
		var f message
		f.text(1, in.Key)
		f.number(2, int64(firstInherited+i))
		m.bytes(27, f)
	}
	m.number(34, int64(o.CgroupMode))
	for _, e := range o.External {
		m.text(37, e)
	}
	if o.EmptyNamespaces != 0 {
		m.number(38, int64(o.EmptyNamespaces))
	}
	for _, p := range o.JoinNamespaces {
		m.bytes(39, pair(1, p.Key, 2, p.Value))
	}
	m.text(44, o.FreezeGroup)
	m.flag(46, o.TCPSkipInFlight)
	m.flag(48, o.LazyPages)
	if o.StatusFd != 0 {
		m.number(49, int64(o.StatusFd))
	}
	m.flag(50, o.OrphanPtsMaster)
	m.text(53, o.LSMProfile)
	m.text(63, o.LSMMountContext)
	if o.LockWithNftables {
		m.number(64, 2)
	}
	return m
}

func pair(keyField int, key string, valueField int, value string) message {
	var m message
	m.text(keyField, key)
	m.bytes(valueField, []byte(value))
	return m
}

// parseResponse is criu_resp.
func parseResponse(m message) (*Response, error) {
	r := &Response{}
	err := m.each(func(field int, n uint64, data message) error {
		switch field {
		case 1:
			r.kind = Kind(int32(n))
		case 2:
			r.Success = n != 0
		case 3:
			return data.each(func(field int, n uint64, _ message) error {
				r.Restored = r.Restored || field == 1 && n != 0
				return nil
			})
		case 4:
			return data.each(r.pid(1))
		case 5:
			return data.each(func(field int, n uint64, text message) error {
				if field == 1 {
					r.script = string(text)
				}
				return r.pid(2)(field, n, text)
			})
		case 7:
			r.errno = int(int32(n))
		case 8:
			return data.each(func(field int, n uint64, _ message) error {
				r.MemTrack = r.MemTrack || field == 1 && n != 0
				r.Lazy = r.Lazy || field == 2 && n != 0
				return nil
			})
		case 9:
			r.errorMessage = string(data)
		case 10:
			return data.each(func(field int, n uint64, _ message) error {
				switch field {
				case 1:
					r.Major = int(int32(n))
				case 2:
					r.Minor = int(int32(n))
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Response) pid(in int) func(int, uint64, message) error {
	return func(field int, n uint64, _ message) error {
		if field == in {
			r.Pid = int(int32(n))
		}
		return nil
	}
}
