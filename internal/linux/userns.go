package linux

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// IDMapping maps Size ids from Inside in a user namespace to ids from Outside (user_namespaces(7)).
type IDMapping struct{ Inside, Outside, Size uint32 }

func idMap(list []IDMapping) string {
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "%d %d %d\n", m.Inside, m.Outside, m.Size)
	}
	return b.String()
}

// NewUserNS makes a user namespace with these mappings and returns a descriptor that keeps it. No process stays in it.
func NewUserNS(uids, gids []IDMapping) (ns *os.File, err error) {
	r, w, err := Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	var p Program
	p.Notify()
	p.Call(unix.SYS_READ, FD(r), Bytes(make([]byte, 1)), N(1)) // until it is killed
	c, err := p.Fork(ForkOptions{Flags: unix.CLONE_NEWUSER})
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	defer func() {
		killErr := PidfdSendSignal(c.Pidfd, unix.SIGKILL)
		_, waitErr := WaitPidfd(c.Pidfd)
		if e := errors.Join(killErr, waitErr, c.closeReport(), c.Pidfd.Close()); e != nil && err == nil {
			err = errors.Join(e, ns.Close())
		}
	}()
	dir := "/proc/" + strconv.Itoa(c.Pid) + "/"
	for _, m := range []struct{ file, text string }{{"uid_map", idMap(uids)}, {"gid_map", idMap(gids)}} {
		if m.text == "" {
			continue
		}
		if err := os.WriteFile(dir+m.file, []byte(m.text), 0); err != nil {
			return nil, fmt.Errorf("mappings %q of a user namespace: %w", strings.TrimSpace(m.text), err)
		}
	}
	return os.Open(dir + "ns/user")
}
