package ocirun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"

	"github.com/berth-engine/berth/internal/durable"
	"github.com/berth-engine/berth/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A compiled filter is kept for the next start with the same profile. A file holds
//
//	"berth filter 2\n" │ CRC-32 of the rest │ length of the key, 4 bytes │ the key │ flags, 4 bytes │ the instructions
//
// in the machine's byte order. The key is the whole profile and the program that compiled it; the file's name is only a hash of it, so
// that of two profiles that are named alike none gets the other's filter. A file that is not what it was written as, or that others could
// have written, is made anew.
const (
	filterMagic = "berth filter 2\n"
	maxFilter   = 1 << 20 // far above what a profile and 4096 instructions take
	maxFilters  = 64      // files in the directory; then it begins anew
)

// CompileFilter is seccomp.Compile with a directory, for nothing else, of what was compiled before; "" is none. Nothing goes
// wrong when the directory cannot be used.
func CompileFilter(dir string, p *specs.LinuxSeccomp) (*seccomp.Filter, error) {
	name, key := "", []byte(nil)
	if dir != "" {
		name, key = filterName(dir, p)
	}
	if name != "" {
		if f, err := readFilter(name, key); err == nil {
			return f, nil
		}
	}
	f, err := seccomp.Compile(p)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	if name != "" {
		_ = writeFilter(dir, name, key, f)
	}
	return f, nil
}

// filterName is "" where the directory is not this user's alone.
func filterName(dir string, p *specs.LinuxSeccomp) (name string, key []byte) {
	var st, exe unix.Stat_t
	err := unix.Lstat(dir, &st)
	if err == unix.ENOENT {
		if err = os.Mkdir(dir, 0o700); err == nil || errors.Is(err, os.ErrExist) {
			err = unix.Lstat(dir, &st)
		}
	}
	if err != nil || st.Mode != unix.S_IFDIR|0o700 || int(st.Uid) != os.Geteuid() || unix.Stat("/proc/self/exe", &exe) != nil {
		return "", nil
	}
	key = make([]byte, 0, 8<<10)
	// Another build may compile otherwise.
	for _, n := range [...]uint64{uint64(exe.Dev), exe.Ino, uint64(exe.Size), uint64(exe.Mtim.Nano())} {
		key = binary.NativeEndian.AppendUint64(key, n)
	}
	key = appendProfile(key, p)
	hash := uint64(14695981039346656037) // FNV-1a
	for _, b := range key {
		hash = (hash ^ uint64(b)) * 1099511628211
	}
	return dir + "/" + strconv.FormatUint(hash, 16), key
}

// appendProfile appends all that a filter is compiled from; two profiles that differ give different bytes.
func appendProfile(b []byte, p *specs.LinuxSeccomp) []byte {
	number := func(n uint64) { b = binary.AppendUvarint(b, n) }
	text := func(s string) { number(uint64(len(s))); b = append(b, s...) }
	errno := func(n *uint) {
		if n == nil {
			number(0)
			return
		}
		number(1)
		number(uint64(*n))
	}
	text(string(p.DefaultAction))
	errno(p.DefaultErrnoRet)
	number(uint64(len(p.Architectures)))
	for _, a := range p.Architectures {
		text(string(a))
	}
	number(uint64(len(p.Flags)))
	for _, f := range p.Flags {
		text(string(f))
	}
	text(p.ListenerPath)
	text(p.ListenerMetadata)
	number(uint64(len(p.Syscalls)))
	for i := range p.Syscalls {
		s := &p.Syscalls[i]
		number(uint64(len(s.Names)))
		for _, n := range s.Names {
			text(n)
		}
		text(string(s.Action))
		errno(s.ErrnoRet)
		number(uint64(len(s.Args)))
		for _, a := range s.Args {
			number(uint64(a.Index))
			number(a.Value)
			number(a.ValueTwo)
			text(string(a.Op))
		}
	}
	return b
}

var errNoFilter = errors.New("it is no filter")

func readFilter(name string, key []byte) (*seccomp.Filter, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode != unix.S_IFREG|0o600 || int(st.Uid) != os.Geteuid() || st.Size > maxFilter {
		return nil, errNoFilter
	}
	data := make([]byte, st.Size)
	if n, err := unix.Read(fd, data); err != nil || n != len(data) {
		return nil, errNoFilter
	}
	rest, is := bytes.CutPrefix(data, []byte(filterMagic))
	if !is || len(rest) < 4+4 || crc32.ChecksumIEEE(rest[4:]) != binary.NativeEndian.Uint32(rest) {
		return nil, errNoFilter
	}
	length, rest := binary.NativeEndian.Uint32(rest[4:]), rest[8:]
	if uint64(length) != uint64(len(key)) || !bytes.HasPrefix(rest, key) {
		return nil, errNoFilter
	}
	rest = rest[length:]
	if len(rest) < 4+8 || len(rest)%8 != 4 {
		return nil, errNoFilter
	}
	// Copied: the kernel's structures are aligned.
	return &seccomp.Filter{Flags: binary.NativeEndian.Uint32(rest), Prog: bytes.Clone(rest[4:])}, nil
}

func writeFilter(dir, name string, key []byte, f *seccomp.Filter) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) >= maxFilters {
		for _, e := range entries {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	body := binary.NativeEndian.AppendUint32(nil, uint32(len(key)))
	body = append(body, key...)
	body = binary.NativeEndian.AppendUint32(body, f.Flags)
	body = append(body, f.Prog...)
	data := binary.NativeEndian.AppendUint32([]byte(filterMagic), crc32.ChecksumIEEE(body))
	return durable.WriteVolatile(name, append(data, body...), 0o600)
}
