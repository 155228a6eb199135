package image

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// A decoder of gzip (RFC 1952, RFC 1951) made for unpacking layers: about three times as fast as the standard
// library's and the others we measured, since it decodes into one flat buffer with history in front, loads its bits
// eight bytes at a time, and looks up a code, its value and its extra bits at once. What it accepts is what
// compress/gzip accepts; a fuzz target holds them together.
//
// A table entry, of literals and lengths as well as of distances:
//
//	31 ……………………………… 16  15       14   13       12       11 … 8        7 6 5  4 … 0
//	value                special  end  invalid  literal  bits of code        bits to drop: code and extra
//
// Value is a literal, or the base of a length or distance. In an entry that is special and neither end nor invalid,
// value is where a second table begins, and instead of the bits of the code stands how many bits index it.
const (
	entrySpecial = 1 << 15
	entryEnd     = 1 << 14
	entryInvalid = 1 << 13
	entryLiteral = 1 << 12

	litBits  = 11
	distBits = 9
	// Behind the first table there is room for as many second ones as there can be: each has two of the symbols at
	// least.
	litSize  = 1<<litBits + 144<<(15-litBits)
	distSize = 1<<distBits + 16<<(15-distBits)

	historySize = 32 << 10
	outSize     = historySize + 128<<10
	maxMatch    = 258
	slack       = maxMatch + 32 // a match may be copied in words and beyond its end
	inSize      = 64 << 10
)

var errGzip = errors.New("invalid compressed data")

type inflater struct {
	r   io.Reader
	in  []byte
	ip  int // next byte of in
	eof error

	bits  uint64
	count uint // valid bits in bits

	out  []byte
	op   int // end of what is decoded
	rp   int // end of what was read by the caller
	base int // where the history of this member begins
	err  error

	state  inflateState
	final  bool
	stored int
	crc    uint32
	size   uint32
	summed int // end of what crc and size cover

	lit  [litSize]uint32
	dist [distSize]uint32
	lens [320]uint8
}

type inflateState int

const (
	atMember inflateState = iota
	atBlock
	inStored
	inCodes
	atTrailer
)

// newInflater reads the header of the first member.
func newInflater(r io.Reader) (*inflater, error) {
	z := &inflater{r: r, in: make([]byte, 0, inSize), out: make([]byte, outSize+slack), state: atBlock}
	z.op, z.rp, z.base, z.summed = historySize, historySize, historySize, historySize
	if err := z.header(); err != nil {
		return nil, unexpected(err)
	}
	return z, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Read implements io.Reader.
func (z *inflater) Read(p []byte) (int, error) {
	for z.rp == z.op {
		if z.err != nil {
			return 0, z.err
		}
		if z.op >= outSize {
			z.slide()
		}
		z.err = z.step()
		z.sum()
	}
	n := copy(p, z.out[z.rp:z.op])
	z.rp += n
	return n, nil
}

// slide moves the history to the front.
func (z *inflater) slide() {
	d := z.op - historySize
	copy(z.out, z.out[d:z.op])
	z.op, z.rp, z.summed = historySize, historySize, historySize
	z.base = max(0, z.base-d)
}

// sum brings checksum and size up to what is decoded.
func (z *inflater) sum() {
	z.crc = crc32.Update(z.crc, crc32.IEEETable, z.out[z.summed:z.op])
	z.size += uint32(z.op - z.summed)
	z.summed = z.op
}

// step decodes some more, or goes to the next state.
func (z *inflater) step() error {
	switch z.state {
	case atMember:
		if err := z.header(); err != nil {
			return err // io.EOF is the end
		}
		z.state = atBlock
	case atBlock:
		if z.final {
			z.final, z.state = false, atTrailer
			return nil
		}
		return unexpected(z.block())
	case inStored:
		return unexpected(z.copyStored())
	case inCodes:
		return unexpected(z.codes())
	case atTrailer:
		z.sum()
		if err := z.trailer(); err != nil {
			return unexpected(err)
		}
		z.state, z.base, z.crc, z.size = atMember, z.op, 0, 0
	}
	return nil
}

// more reads input. It keeps what is not used yet.
func (z *inflater) more() error {
	if z.eof != nil {
		return z.eof
	}
	n := copy(z.in[:cap(z.in)], z.in[z.ip:])
	z.in, z.ip = z.in[:n], 0
	for range 100 {
		m, err := z.r.Read(z.in[n:cap(z.in)])
		z.in, z.eof = z.in[:n+m], err
		if m > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// need brings n bits, at most 32, into bits.
func (z *inflater) need(n uint) error {
	for z.count < n {
		if z.ip == len(z.in) {
			if err := z.more(); err != nil {
				return err
			}
		}
		z.bits |= uint64(z.in[z.ip]) << (z.count & 63)
		z.ip++
		z.count += 8
	}
	return nil
}

func (z *inflater) take(n uint) (uint32, error) {
	if err := z.need(n); err != nil {
		return 0, err
	}
	v := uint32(z.bits & (1<<(n&63) - 1))
	z.drop(n)
	return v, nil
}

func (z *inflater) drop(n uint) {
	z.bits >>= n & 63
	z.count -= n
}

// align drops the rest of a byte.
func (z *inflater) align() { z.drop(z.count & 7) }

// header reads a member's header. io.EOF means that there is no more member.
func (z *inflater) header() error {
	first, err := z.take(8)
	if err != nil {
		return err
	}
	read := func(n uint) (v uint32) {
		if err == nil {
			v, err = z.take(n)
		}
		return v
	}
	second, method, flags := read(8), read(8), read(8)
	if err == nil && (first != 0x1f || second != 0x8b || method != 8) {
		return errGzip
	}
	head := []byte{0x1f, 0x8b, 8, byte(flags)}
	next := func() byte {
		b := byte(read(8))
		head = append(head, b)
		return b
	}
	for range 6 { // time, flags of the compressor, system
		next()
	}
	if flags&4 != 0 {
		for n := int(next()) | int(next())<<8; n > 0 && err == nil; n-- {
			next()
		}
	}
	for _, flag := range []uint32{8, 16} { // name, comment
		for n := 0; flags&flag != 0 && err == nil && next() != 0; n++ {
			if n > 512 {
				return errGzip
			}
		}
	}
	if flags&2 != 0 {
		sum := crc32.ChecksumIEEE(head)
		if got := read(16); err == nil && got != sum&0xffff {
			return errGzip
		}
	}
	return unexpected(err)
}

func (z *inflater) trailer() error {
	z.align()
	crc, err := z.take(32)
	if err != nil {
		return err
	}
	size, err := z.take(32)
	if err != nil {
		return err
	}
	if crc != z.crc || size != z.size {
		return errGzip
	}
	return nil
}

func (z *inflater) block() error {
	h, err := z.take(3)
	if err != nil {
		return err
	}
	z.final = h&1 != 0
	switch h >> 1 {
	case 0:
		z.align()
		n, err := z.take(32)
		if err != nil {
			return err
		}
		if n&0xffff != ^n>>16 {
			return errGzip
		}
		z.stored, z.state = int(n&0xffff), inStored
		return nil
	case 1:
		return z.fixed()
	case 2:
		return z.dynamic()
	}
	return errGzip
}

func (z *inflater) copyStored() error {
	for z.stored > 0 && z.op < outSize {
		if z.count >= 8 { // aligned: whole bytes that were read ahead
			z.out[z.op] = byte(z.bits)
			z.op++
			z.stored--
			z.drop(8)
			continue
		}
		if z.ip == len(z.in) {
			if err := z.more(); err != nil {
				return err
			}
		}
		n := copy(z.out[z.op:min(outSize, z.op+z.stored)], z.in[z.ip:])
		z.ip += n
		z.op += n
		z.stored -= n
	}
	if z.stored == 0 {
		z.state = atBlock
	}
	return nil
}

func (z *inflater) fixed() error {
	for i := range 288 {
		switch {
		case i < 144:
			z.lens[i] = 8
		case i < 256:
			z.lens[i] = 9
		case i < 280:
			z.lens[i] = 7
		default:
			z.lens[i] = 8
		}
	}
	if !buildTable(z.lit[:], litBits, z.lens[:288], litEntry) || !buildFixedDistances(z.dist[:]) {
		return errGzip
	}
	z.state = inCodes
	return nil
}

// buildFixedDistances makes the table of 32 codes of 5 bits, of which two mean nothing.
func buildFixedDistances(table []uint32) bool {
	var lens [32]uint8
	for i := range lens {
		lens[i] = 5
	}
	return buildTable(table, distBits, lens[:], distEntry)
}

func (z *inflater) dynamic() error {
	h, err := z.take(14)
	if err != nil {
		return err
	}
	nlit, ndist, ncode := int(h&31)+257, int(h>>5&31)+1, int(h>>10)+4
	if nlit > 286 || ndist > 30 {
		return errGzip
	}
	order := [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	var codeLens [19]uint8
	for _, o := range order[:ncode] {
		v, err := z.take(3)
		if err != nil {
			return err
		}
		codeLens[o] = uint8(v)
	}
	// The table of distances is free at the moment.
	if !buildTable(z.dist[:], distBits, codeLens[:], plainEntry) {
		return errGzip
	}
	for i := 0; i < nlit+ndist; {
		sym, err := z.symbol(z.dist[:], distBits)
		if err != nil {
			return err
		}
		if sym < 16 {
			z.lens[i] = uint8(sym)
			i++
			continue
		}
		var fill uint8
		repeat, extra := 3, uint(2)
		switch sym {
		case 16:
			if i == 0 {
				return errGzip
			}
			fill = z.lens[i-1]
		case 17:
			extra = 3
		default:
			repeat, extra = 11, 7
		}
		v, err := z.take(extra)
		if err != nil {
			return err
		}
		if repeat += int(v); i+repeat > nlit+ndist {
			return errGzip
		}
		for ; repeat > 0; repeat-- {
			z.lens[i] = fill
			i++
		}
	}
	if !buildTable(z.lit[:], litBits, z.lens[:nlit], litEntry) ||
		!buildTable(z.dist[:], distBits, z.lens[nlit:nlit+ndist], distEntry) {
		return errGzip
	}
	z.state = inCodes
	return nil
}

// lookup finds the entry of the next code, reading no more bits than it has. It drops the bits of the first table if
// there is a second.
func (z *inflater) lookup(table []uint32, width uint) (uint32, error) {
	for {
		e := table[z.bits&(1<<(width&31)-1)]
		n := uint(e & 31)
		switch {
		case n > z.count: // what is still missing may lead elsewhere
			if err := z.need(z.count + 1); err != nil {
				return 0, err
			}
		case e&entryInvalid != 0:
			return 0, errGzip
		case e&(entrySpecial|entryEnd) == entrySpecial:
			z.drop(n)
			table, width = table[e>>16:], uint(e>>8&15)
		default:
			return e, nil
		}
	}
}

// symbol decodes a code of a table without lengths or distances.
func (z *inflater) symbol(table []uint32, width uint) (int, error) {
	e, err := z.lookup(table, width)
	if err != nil {
		return 0, err
	}
	z.drop(uint(e & 31))
	return int(e >> 16), nil
}

// pair is the value of an entry with its extra bits, which lookup has made sure of.
func (z *inflater) pair(e uint32) int {
	v := int(e>>16) + int(z.bits&(1<<(e&31)-1)>>(e>>8&15))
	z.drop(uint(e & 31))
	return v
}

// codes decodes codes until the buffer is full or the block ends.
func (z *inflater) codes() error {
	for z.op < outSize {
		if len(z.in)-z.ip >= 32 {
			if end, err := z.fast(); end || err != nil {
				if end {
					z.state = atBlock
				}
				return err
			}
			if z.op >= outSize {
				return nil
			}
		}
		if z.eof == nil && len(z.in)-z.ip < 32 && z.ip > 0 {
			if err := z.more(); err == nil {
				continue
			} else if err != io.EOF {
				return err
			}
		}
		if end, err := z.slow(); end || err != nil {
			if end {
				z.state = atBlock
			}
			return err
		}
	}
	return nil
}

// slow decodes one code where little input is left.
func (z *inflater) slow() (end bool, err error) {
	e, err := z.lookup(z.lit[:], litBits)
	if err != nil {
		return false, err
	}
	switch {
	case e&entryLiteral != 0:
		z.drop(uint(e & 31))
		z.out[z.op] = byte(e >> 16)
		z.op++
		return false, nil
	case e&entryEnd != 0:
		z.drop(uint(e & 31))
		return true, nil
	}
	length := z.pair(e)
	if e, err = z.lookup(z.dist[:], distBits); err != nil {
		return false, err
	}
	dist := z.pair(e)
	if dist > z.op-z.base {
		return false, errGzip
	}
	for range length {
		z.out[z.op] = z.out[z.op-dist]
		z.op++
	}
	return false, nil
}

// fast decodes codes while there is plenty of input and room. A load makes sure of 56 bits: enough for two literals of the first
// table and, after another load, for a length of 20 bits and a distance of 28. The entry of the next code is looked up before
// a match is copied, so that the processor has both under way. Of count only the low six bits have a meaning here.
func (z *inflater) fast() (end bool, err error) {
	in, ip, out, op := z.in, z.ip, z.out, z.op
	bits, count := z.bits, z.count
	lit, dist := &z.lit, &z.dist
	last, base := len(in)-16, z.base
	bits |= binary.LittleEndian.Uint64(in[ip:]) << (count & 63)
	ip += int((63 - count) >> 3 & 7)
	count |= 56
	e := lit[bits&(1<<litBits-1)]
loop:
	for ip <= last && op < outSize {
		if e&entryLiteral != 0 {
			bits >>= e & 63
			count -= uint(e)
			out[op] = byte(e >> 16)
			op++
			if e = lit[bits&(1<<litBits-1)]; e&entryLiteral != 0 {
				bits >>= e & 63
				count -= uint(e)
				out[op] = byte(e >> 16)
				op++
				if e = lit[bits&(1<<litBits-1)]; e&entryLiteral != 0 {
					bits >>= e & 63
					count -= uint(e)
					out[op] = byte(e >> 16)
					op++
					bits |= binary.LittleEndian.Uint64(in[ip:]) << (count & 63)
					ip += int((63 - count) >> 3 & 7)
					count |= 56
					e = lit[bits&(1<<litBits-1)]
					continue
				}
			}
			bits |= binary.LittleEndian.Uint64(in[ip:]) << (count & 63)
			ip += int((63 - count) >> 3 & 7)
			count |= 56
		}
		if e&entrySpecial != 0 {
			if e&(entryEnd|entryInvalid) == 0 {
				bits >>= e & 63
				count -= uint(e)
				i := uint64(e>>16) + bits&(1<<(e>>8&15)-1)
				if i >= litSize {
					err = errGzip
					break loop
				}
				if e = lit[i]; e&entryLiteral != 0 {
					bits >>= e & 63
					count -= uint(e)
					out[op] = byte(e >> 16)
					op++
					bits |= binary.LittleEndian.Uint64(in[ip:]) << (count & 63)
					ip += int((63 - count) >> 3 & 7)
					count |= 56
					e = lit[bits&(1<<litBits-1)]
					continue
				}
			}
			if e&entryInvalid != 0 {
				err = errGzip
				break loop
			}
			if e&entryEnd != 0 {
				bits >>= e & 63
				count -= uint(e)
				end = true
				break loop
			}
		}
		length := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		count -= uint(e)

		e = dist[bits&(1<<distBits-1)]
		if e&entrySpecial != 0 {
			if e&entryInvalid != 0 {
				err = errGzip
				break loop
			}
			bits >>= e & 63
			count -= uint(e)
			i := uint64(e>>16) + bits&(1<<(e>>8&15)-1)
			if i >= distSize {
				err = errGzip
				break loop
			}
			if e = dist[i]; e&entryInvalid != 0 {
				err = errGzip
				break loop
			}
		}
		d := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		count -= uint(e)
		from := op - d
		if from < base {
			err = errGzip
			break loop
		}
		bits |= binary.LittleEndian.Uint64(in[ip:]) << (count & 63)
		ip += int((63 - count) >> 3 & 7)
		count |= 56
		e = lit[bits&(1<<litBits-1)]

		dst, src := out[op:op+maxMatch+16], out[from:from+maxMatch+16]
		op += length
		switch {
		case d >= 16:
			// By sixteens, and the last ones beyond the end of the match: what they spoil is written later.
			*(*[16]byte)(dst) = *(*[16]byte)(src)
			for i := 16; i < length; i += 16 {
				*(*[16]byte)(dst[i:]) = *(*[16]byte)(src[i:])
			}
		case d >= 8:
			for i := 0; i < length; i += 8 {
				*(*[8]byte)(dst[i:]) = *(*[8]byte)(src[i:])
			}
		case d == 1:
			run := 0x0101010101010101 * uint64(src[0])
			for i := 0; i < length; i += 8 {
				binary.LittleEndian.PutUint64(dst[i:], run)
			}
		default:
			for i := range dst[:length] {
				dst[i] = src[i]
			}
		}
	}
	// A load may have set bits beyond count; they come again with the next one.
	count &= 63
	z.ip, z.op, z.bits, z.count = ip, op, bits&(1<<count-1), count
	return end, err
}

// entries of the kinds of tables, for a symbol, with the number of extra bits to drop; those of the code are added.
func litEntry(sym int) uint32 {
	switch {
	case sym < 256:
		return uint32(sym)<<16 | entryLiteral
	case sym == 256:
		return entrySpecial | entryEnd
	case sym < 265:
		return uint32(sym-257+3) << 16
	case sym < 285:
		extra := uint32(sym-261) / 4
		return (3+(4+uint32(sym-265)%4)<<extra)<<16 | extra
	case sym == 285:
		return 258 << 16
	}
	return entrySpecial | entryInvalid
}

func distEntry(sym int) uint32 {
	switch {
	case sym < 4:
		return uint32(sym+1) << 16
	case sym < 30:
		extra := uint32(sym-2) / 2
		return (1+(2+uint32(sym)%2)<<extra)<<16 | extra
	}
	return entrySpecial | entryInvalid
}

func plainEntry(sym int) uint32 { return uint32(sym) << 16 }

// buildTable makes a table that is indexed by width bits, with second tables behind it for longer codes. It is false
// when the lengths are not those of a complete code, other than none at all or a single one of one bit.
func buildTable(table []uint32, width int, lens []uint8, entry func(int) uint32) bool {
	var count [16]int
	longest := 0
	for _, l := range lens {
		count[l]++
		longest = max(longest, int(l))
	}
	invalid := uint32(entrySpecial | entryInvalid | 1)
	for i := range 1 << width {
		table[i] = invalid
	}
	if longest == 0 {
		return true
	}
	var next [17]int
	code := 0
	count[0] = 0
	for l := 1; l <= longest; l++ {
		code <<= 1
		next[l] = code
		code += count[l]
	}
	if code != 1<<longest && !(code == 1 && longest == 1) {
		return false
	}
	free := 1 << width
	for sym, l := range lens {
		n := int(l)
		if n == 0 {
			continue
		}
		rev := reverse(next[n], n)
		next[n]++
		if n <= width {
			e := entry(sym) + uint32(n)<<8 + uint32(n)
			for i := rev; i < 1<<width; i += 1 << n {
				table[i] = e
			}
			continue
		}
		// The first code of a prefix makes its second table, as wide as the longest code of all needs it.
		prefix, sub := rev&(1<<width-1), longest-width
		if table[prefix] == invalid {
			if free+(1<<sub) > len(table) {
				return false
			}
			table[prefix] = uint32(free)<<16 | entrySpecial | uint32(sub)<<8 | uint32(width)
			free += 1 << sub
		}
		at := int(table[prefix] >> 16)
		e := entry(sym) + uint32(n-width)<<8 + uint32(n-width)
		for i := rev >> width; i < 1<<sub; i += 1 << (n - width) {
			table[at+i] = e
		}
	}
	return true
}

func reverse(code, n int) int {
	r := 0
	for range n {
		r = r<<1 | code&1
		code >>= 1
	}
	return r
}
