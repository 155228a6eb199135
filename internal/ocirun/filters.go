package ocirun

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/berth-engine/berth/internal/durable"
	"github.com/berth-engine/berth/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A compiled filter is kept for the next start with the same profile. A file is named after profile and program, and holds
//
//	"berth filter 1\n" │ SHA-256 of the rest │ flags, 4 bytes │ the instructions
//
// in the machine's byte order. One that is not what it was written as, or that others could have written, is made anew.
const (
	filterMagic = "berth filter 1\n"
	maxFilter   = 64 << 10 // above what 4096 instructions take
	maxFilters  = 64       // files in the directory; then it begins anew
)

// CompileFilter is seccomp.Compile with a directory, for nothing else, of what was compiled before; "" is none. Nothing goes
// wrong when the directory cannot be used.
func CompileFilter(dir string, p *specs.LinuxSeccomp) (*seccomp.Filter, error) {
	name := ""
	if dir != "" {
		name = filterName(dir, p)
	}
	if name != "" {
		if f, err := readFilter(name); err == nil {
			return f, nil
		}
	}
	f, err := seccomp.Compile(p)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	if name != "" {
		_ = writeFilter(dir, name, f)
	}
	return f, nil
}

// filterName is "" where the directory is not this user's alone.
func filterName(dir string, p *specs.LinuxSeccomp) string {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return ""
	}
	var st, exe unix.Stat_t
	if unix.Lstat(dir, &st) != nil || st.Mode != unix.S_IFDIR|0o700 || int(st.Uid) != os.Geteuid() || unix.Stat("/proc/self/exe", &exe) != nil {
		return ""
	}
	data, err := json.Marshal(p)
	if err != nil {
		return ""
	}
	// Another build may compile otherwise.
	sum := sha256.Sum256(fmt.Appendf(data, " %d %d %d %d", exe.Dev, exe.Ino, exe.Size, exe.Mtim.Nano()))
	return filepath.Join(dir, hex.EncodeToString(sum[:]))
}

var errNoFilter = errors.New("it is no filter")

func readFilter(name string) (*seccomp.Filter, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode != unix.S_IFREG|0o600 || int(st.Uid) != os.Geteuid() || st.Size > maxFilter {
		return nil, errNoFilter
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFilter))
	if err != nil {
		return nil, err
	}
	rest, is := bytes.CutPrefix(data, []byte(filterMagic))
	if !is || len(rest) < sha256.Size+4+8 || len(rest[sha256.Size+4:])%8 != 0 {
		return nil, errNoFilter
	}
	if sum := sha256.Sum256(rest[sha256.Size:]); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return nil, errNoFilter
	}
	rest = rest[sha256.Size:]
	return &seccomp.Filter{Flags: binary.NativeEndian.Uint32(rest), Prog: bytes.Clone(rest[4:])}, nil
}

func writeFilter(dir, name string, f *seccomp.Filter) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) >= maxFilters {
		for _, e := range entries {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	body := append(binary.NativeEndian.AppendUint32(nil, f.Flags), f.Prog...)
	sum := sha256.Sum256(body)
	data := append([]byte(filterMagic), sum[:]...)
	return durable.WriteVolatile(name, append(data, body...), 0o600)
}
