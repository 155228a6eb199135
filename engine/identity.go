package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
)

// maxIdentityFile bounds /etc/passwd and /etc/group of an image (CVE-2026-47262).
const maxIdentityFile = 10 << 20

// resolveUser finds the numbers behind "name", "uid", "name:group" or "uid:gid" in the image's own files. A number is
// never looked up as a name (CVE-2016-3697) and never overflows (CVE-2024-40635).
func resolveUser(root *confine.Root, spec string, groupAdd []string) (execUser, error) {
	for _, part := range strings.SplitN(spec, ":", 2) {
		if n, err := strconv.ParseInt(part, 10, 64); err == nil && (n < 0 || n > math.MaxInt32) || numeric(part) && err != nil {
			return execUser{}, fmt.Errorf("user %q: uids and gids must be in range 0-%d%w", spec, math.MaxInt32,
				kind{errdefs.ErrInvalidArgument})
		}
	}
	passwd, err := identityFile(root, "/etc/passwd")
	if err != nil {
		return execUser{}, err
	}
	group, err := identityFile(root, "/etc/group")
	if err != nil {
		return execUser{}, err
	}
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, reader(passwd), reader(group))
	if err != nil {
		return execUser{}, fmt.Errorf("%w%w", err, kind{errdefs.ErrInvalidArgument})
	}
	out := execUser{UID: uint32(u.Uid), GID: uint32(u.Gid), Home: u.Home}
	seen := map[uint32]bool{}
	add := func(gids []int) {
		for _, g := range gids {
			if id := uint32(g); !seen[id] {
				seen[id] = true
				out.Groups = append(out.Groups, id)
			}
		}
	}
	// The primary group counts among the supplementary ones, so that dropping it changes nothing (CVE-2022-36109).
	add([]int{u.Gid})
	add(u.Sgids)
	if len(groupAdd) > 0 {
		more, err := user.GetAdditionalGroups(groupAdd, reader(group))
		if err != nil {
			return execUser{}, fmt.Errorf("%w%w", err, kind{errdefs.ErrInvalidArgument})
		}
		add(more)
	}
	return out, nil
}

func numeric(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// identityFile reads a file that an image may lack.
func identityFile(root *confine.Root, path string) ([]byte, error) {
	data, err := root.ReadFile(path, maxIdentityFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of the image: %w", path, err)
	}
	return data, nil
}

func reader(data []byte) io.Reader {
	if data == nil {
		return nil
	}
	return bytes.NewReader(data)
}

// ownCapabilities are those this process can give away.
func ownCapabilities() ([]string, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		text, ok := strings.CutPrefix(line, "CapPrm:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("read this process's capabilities: %w", err)
		}
		var names []string
		for i, name := range allCaps {
			if set&(1<<i) != 0 {
				names = append(names, name)
			}
		}
		return names, nil
	}
	return nil, errors.New("this kernel does not tell a process's capabilities")
}
