package logfile

import (
	"encoding/binary"
	"math/bits"
	"time"
	"unicode/utf8"
)

// Stream says where a line was printed. Its values are those of Docker's stream framing.
type Stream byte

// The streams of a container. A terminal has only the first.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// String is the stream's name in the file.
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// maxGrowth is how much longer a byte can become: \u00XX.
const maxGrowth = 6

// Masks for eight bytes at a time.
const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// plain is how many bytes at the beginning of s stand for themselves in a JSON string.
func plain(s []byte) int {
	i := 0
	for ; i+8 <= len(s); i += 8 {
		x := binary.LittleEndian.Uint64(s[i:])
		// In a byte below 0x80, subtracting borrows into the high bit exactly if the byte is smaller. A borrow can
		// disturb only bytes above one that is already a hit, and only the first hit counts. Two characters that
		// differ in one bit are looked for at once: < and >, " and &.
		m := x | (x - 0x20*ones) |
			((x ^ '\\'*ones) - ones) |
			((x&^(0x02*ones) ^ '<'*ones) - ones) |
			((x&^(0x04*ones) ^ '"'*ones) - ones)
		if m &= highs; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			break
		}
	}
	return i
}

// appendString appends s as the inside of a JSON string.
func appendString(dst, s []byte) []byte {
	const hex = "0123456789abcdef"
	for len(s) > 0 {
		n := plain(s)
		dst = append(dst, s[:n]...)
		if s = s[n:]; len(s) == 0 {
			break
		}
		c := s[0]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(s)
			switch {
			case r == utf8.RuneError && size == 1:
				dst = append(dst, `\ufffd`...)
			case r == '\u2028' || r == '\u2029':
				dst = append(dst, `\u202`...)
				dst = append(dst, hex[r&0xf])
			default:
				dst = append(dst, s[:size]...)
			}
			s = s[size:]
			continue
		}
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		default:
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&0xf])
		}
		s = s[1:]
	}
	return dst
}

// appendEntry appends one line of the file. tail is what appendTail made.
func appendEntry(dst []byte, stream Stream, line []byte, newline bool, attrs, tail []byte) []byte {
	dst = append(dst, '{')
	if len(line) > 0 || newline {
		dst = append(dst, `"log":"`...)
		dst = appendString(dst, line)
		if newline {
			dst = append(dst, `\n`...)
		}
		dst = append(dst, `",`...)
	}
	if stream == Stderr {
		dst = append(dst, `"stream":"stderr",`...)
	} else {
		dst = append(dst, `"stream":"stdout",`...)
	}
	if len(attrs) > 0 {
		dst = append(dst, `"attrs":`...)
		dst = append(dst, attrs...)
		dst = append(dst, ',')
	}
	return append(dst, tail...)
}

// appendTail appends the end of an entry, which entries of the same moment share.
func appendTail(dst []byte, t time.Time) []byte {
	dst = append(dst, `"time":"`...)
	dst = t.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, "\"}\n"...)
}

// runeCut is where to cut s, which is not the end of what was printed, so that no character is torn apart.
func runeCut(s []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(s); i++ {
		if c := s[len(s)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(s[len(s)-i:]) && i < len(s) {
				return len(s) - i
			}
			break
		}
	}
	return len(s)
}
