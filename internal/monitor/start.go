package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/logfile"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/berth-engine/berth/internal/specjson"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// spare waits for a document and starts what it describes. A daemon that ends first ends it, too.
func spare(rt backend) int {
	var st unix.Stat_t
	if err := unix.Fstat(socketFd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		os.Stderr.WriteString("berth-runtime monitor: started by berthd, not by hand\n")
		return 2
	}
	// Whatever the daemon's own parent has left open is not for the containers.
	_ = unix.CloseRange(socketFd, uint(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)
	warm()
	buf := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4*linux.MaxFds))
	if err := waitReadable(socketFd); err != nil {
		return fail(err)
	}
	n, fds, err := recvMessage(socketFd, buf, oob, 0)
	if err != nil {
		return fail(err)
	}
	if n == 0 {
		return 0
	}
	m, err := newMonitor(rt)
	if err == nil {
		err = m.begin(buf[:n], fds)
	}
	if err != nil {
		code, message := startFailure(err)
		p := pack(opFailed, 0)
		p.num(uint32(code))
		p.str(clip(message))
		_, _ = send(socketFd, p.b)
		return 1
	}
	return m.run()
}

func waitReadable(fd int) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
}

// warm does ahead of time what the first document would otherwise have to wait for: what reads it has to come into memory.
func warm() {
	var d document
	_ = specjson.Unmarshal([]byte(warmDocument), &d)
}

const warmDocument = `{"Version":1,"ID":"x","Dir":"x","Spec":{"ociVersion":"1.3.0",
"process":{"terminal":false,"user":{"uid":0,"gid":0,"additionalGids":[0]},"args":["x"],"env":["x"],"cwd":"/","capabilities":{"bounding":["x"],"effective":["x"],
"permitted":["x"]},"rlimits":[{"type":"x","hard":1,"soft":1}],"oomScoreAdj":0},"root":{"path":"x"},"hostname":"x",
"mounts":[{"destination":"/x","type":"x","source":"x","options":["x"]}],"annotations":{"x":"x"},
"linux":{"sysctl":{"x":"x"},"resources":{"devices":[{"allow":false,"type":"c","major":1,"minor":1,"access":"rwm"}],
"memory":{"limit":1},"cpu":{"shares":1},"pids":{"limit":1}},"cgroupsPath":"x","namespaces":[{"type":"x"}],
"devices":[{"path":"x","type":"c","major":1,"minor":1,"fileMode":438,"uid":0,"gid":0}],
"maskedPaths":["x"],"readonlyPaths":["x"]}},"CgroupPath":"x","Seccomp":"AAAA","Log":{"Driver":"x"},"Files":["x"],
"Streams":[{"Stdin":true}]}`

// undo is what has to be taken back when a start fails, the last first.
type undo []func()

func (u *undo) add(fn func()) { *u = append(*u, fn) }
func (u undo) run() {
	for i := len(u) - 1; i >= 0; i-- {
		u[i]()
	}
}

// begin starts the container. When it fails, nothing is left; when it succeeds, the daemon has been told.
func (m *monitor) begin(msg []byte, fds []int) (err error) {
	var back undo
	defer func() {
		if err != nil {
			back.run()
		}
	}()
	d, files, streams, err := readDocument(msg, fds)
	if err != nil {
		return err
	}
	// What was handed over has been copied by the container's process when it runs.
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if m.mem, err = newScratch(logfile.BufferSize + len(d.Log.Attrs)); err != nil {
		return err
	}
	m.mem.dirty = true
	m.id, m.dir, m.note, m.log = d.ID, d.Dir, d.Note, d.Log
	m.killRest = sharesPids(d.Spec)

	dir, err := openDir(d.Dir)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Unlink(underDir(dir, recordName)); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove the old exit record: %w", err)
	}
	back.add(func() { _ = unix.Unlink(d.Dir + "/" + socketName) })
	if err := m.listen(dir); err != nil {
		return err
	}
	if err := m.log.check(); err != nil {
		return err
	}

	p := newProc(m, "")
	p.terminal = d.Terminal
	p.stdin.once = d.StdinOnce
	m.init = p
	theirs, err := p.pipes(d.Terminal, d.OpenStdin, true, true, d.Spec.Process.User)
	if err != nil {
		return err
	}
	defer theirs.close()
	var group *cgroup.Group
	if d.CgroupPath != "" {
		if m.host, err = cgroup.Detect(); err != nil {
			return err
		}
		var resources *specs.LinuxResources
		if d.Spec.Linux != nil {
			resources = d.Spec.Linux.Resources
		}
		if group, m.warnings, err = m.host.Create(d.CgroupPath, resources); err != nil {
			return err
		}
		m.cgroup = d.CgroupPath
		back.add(func() {
			if err := errors.Join(group.KillAll(), group.Delete()); err != nil {
				m.complain(err)
			}
		})
	}
	o := ocirun.StartOptions{ID: d.ID, Spec: d.Spec, Rootfs: files[nameRootfs], Trees: trees(files), Bundle: d.Dir, Cgroup: group,
		Seccomp: d.Seccomp, Stdin: theirs[0], Stdout: theirs[1], Stderr: theirs[2],
		Terminal: d.Terminal, Rows: d.Rows, Cols: d.Cols, Namespaces: namespaces(files)}
	o.Init = d.Spec.Annotations[InitAnnotation] == "true"
	started, err := m.rt.start(context.Background(), o)
	if err != nil {
		return err
	}
	// No way back from here: the container's program runs.
	if err := p.adopt(started); err != nil {
		abandon(started.Pid)
		return err
	}
	m.pid, m.startedAt = p.pid, time.Now()
	m.warnings = append(m.warnings, started.Warnings...)
	c := m.connect(socketFd)
	if c != nil {
		c.hello()
	}
	// Making a file can take longer than all of the above. Output waits in its pipe meanwhile.
	openErrors(dir)
	m.must(m.openLog())
	for i, fd := range streams {
		// The daemon has no name for these.
		if err := m.attach(p, fd, d.Streams[i], nil, 0); err != nil {
			m.complain(err)
			closeStream(m, fd)
		}
	}
	p.begin()
	m.must(m.poll.want(&m.listener.watched, &m.listener, unix.EPOLLIN))
	if group != nil {
		m.watchOOM(group)
	}
	m.fatSince = m.startedAt
	return nil
}

// readDocument takes a start message apart.
func readDocument(msg []byte, fds []int) (d *document, files map[string]*os.File, streams []int, err error) {
	defer func() {
		if err != nil {
			closeAll(fds)
		}
	}()
	o, _, u, err := unpack(msg)
	if err == nil && o == opLarge {
		if len(fds) == 0 {
			return nil, nil, nil, errMessage
		}
		if msg, err = readLarge(fds[0]); err == nil {
			unix.Close(fds[0])
			fds = fds[1:]
			o, _, u, err = unpack(msg)
		}
	}
	if err != nil {
		return nil, nil, nil, err
	}
	text := u.bytes()
	if o != opStart || u.bad {
		return nil, nil, nil, errMessage
	}
	d = &document{}
	if err := specjson.Unmarshal(text, d); err != nil {
		return nil, nil, nil, fmt.Errorf("the container's document cannot be understood: %w", err)
	}
	switch {
	case d.Version != Version:
		err = fmt.Errorf("the container's document has version %d, this monitor knows %d", d.Version, Version)
	case d.ID == "" || !strings.HasPrefix(d.Dir, "/"):
		err = errors.New("the container's document names no container or no run directory")
	case d.Spec == nil || d.Spec.Process == nil || len(d.Spec.Process.Args) == 0:
		err = errors.New("the container's document has no process")
	case len(d.Files) != len(fds):
		err = fmt.Errorf("the container's document names %d files, %d came with it", len(d.Files), len(fds))
	}
	if err != nil {
		return nil, nil, nil, err
	}
	n := 0
	for i, name := range d.Files {
		if name == nameStream {
			if n++; n > len(d.Streams) || !isStream(fds[i]) {
				return nil, nil, nil, errors.New("what was handed over to be attached is not a stream socket")
			}
		}
	}
	if n != len(d.Streams) {
		return nil, nil, nil, fmt.Errorf("%d streams were handed over, not %d", n, len(d.Streams))
	}
	files = map[string]*os.File{}
	for i, name := range d.Files {
		if name == nameStream {
			streams = append(streams, fds[i])
			continue
		}
		files[name] = borrow(fds[i], name)
	}
	return d, files, streams, nil
}

func namespaces(files map[string]*os.File) map[specs.LinuxNamespaceType]*os.File {
	found := map[specs.LinuxNamespaceType]*os.File{}
	for name, f := range files {
		if kind, ok := strings.CutPrefix(name, nameNamespace); ok {
			found[specs.LinuxNamespaceType(kind)] = f
		}
	}
	return found
}

func trees(files map[string]*os.File) map[string]*os.File {
	var found map[string]*os.File
	for name, f := range files {
		if destination, ok := strings.CutPrefix(name, nameTree); ok {
			if found == nil {
				found = map[string]*os.File{}
			}
			found[destination] = f
		}
	}
	return found
}

// sharesPids reports whether the end of the container's first process leaves others behind.
func sharesPids(s *specs.Spec) bool {
	if s.Linux == nil {
		return true
	}
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			return ns.Path != ""
		}
	}
	return true
}

// openDir opens the run directory, which is made if need be and is nobody else's business.
func openDir(dir string) (int, error) {
	if err := unix.Mkdir(dir, 0o700); err != nil && err != unix.EEXIST {
		return -1, fmt.Errorf("make the run directory %q: %w", dir, err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Mode&0o777 != 0o700 {
			err = unix.Fchmod(fd, 0o700)
		}
		if err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("open the run directory %q: %w", dir, err)
	}
	return fd, nil
}

// openErrors makes complaints, and the last words of a Go program, go into a file.
func openErrors(dir int) {
	fd, err := unix.Openat(dir, errorsName, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	_ = unix.Dup3(fd, 2, 0)
	unix.Close(fd)
}

// underDir is a short path to a file in an open directory.
func underDir(fd int, name string) string { return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name }
