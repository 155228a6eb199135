package ocirun

import (
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// FuzzMountOptions: whatever is accepted has a clean absolute place, sets nothing that it also clears, and reads the same again.
func FuzzMountOptions(f *testing.F) {
	for _, seed := range [][2]string{
		{"/dev", "nosuid,strictatime,mode=755,size=65536k"}, {"x/../y", "rbind,rprivate,ro"}, {"/", "rro,rnosuid"},
		{"/tmp", "tmpcopyup,noexec,exec,dev"}, {"/a//b/./c", "bind,idmap,X-mount.idmap=u:0:1:2"}, {"/p", "=,a=,=b,,"},
	} {
		f.Add(seed[0], "tmpfs", "none", seed[1])
	}
	f.Fuzz(func(t *testing.T, dest, fstype, source, options string) {
		m := specs.Mount{Destination: dest, Type: fstype, Source: source, Options: strings.Split(options, ",")}
		one, err := parseMounts([]specs.Mount{m})
		two, again := parseMounts([]specs.Mount{m})
		if (err == nil) != (again == nil) || err == nil && !reflect.DeepEqual(one, two) {
			t.Fatalf("%q is read in two ways: %+v, %v and %+v, %v", options, one, err, two, again)
		}
		if err != nil {
			return
		}
		for _, o := range one {
			if !path.IsAbs(o.dest) || path.Clean(o.dest) != o.dest || o.dest == "/" {
				t.Errorf("%q becomes %q", dest, o.dest)
			}
			// The access time is a field of its own, of which a part is always cleared (mount_setattr(2)).
			if both := o.set & o.clr &^ unix.MOUNT_ATTR__ATIME; both != 0 {
				t.Errorf("%q sets and clears %#x", options, both)
			}
		}
	})
}

// FuzzState: a damaged state file is an error or a state; no question about it panics or takes a stranger for the container.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"format":1,"pid":1,"startTime":0,"held":true}`))
	f.Add([]byte(`{"format":1,"pid":-1,"startTime":18446744073709551615,"created":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"annotations":{"a":null},"pid":1e3}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, StateFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := ReadState(dir)
		if err != nil {
			return
		}
		if st.Format != 1 {
			t.Errorf("format %d is taken", st.Format)
		}
		if s := st.Status(); st.Pid <= 0 && s != specs.StateStopped {
			t.Errorf("process %d is %s", st.Pid, s)
		}
	})
}
