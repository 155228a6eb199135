package ocirun

import (
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What becomes of every field of a spec.
const (
	honoured   = "honoured"       // a test in this package, or in cgroup or seccomp, shows what the kernel made of it
	refused    = "refused"        // an error, always
	whereThere = "where it is"    // handed to the kernel, whose error is the start's
	data       = "carried along"  // no request to the kernel
	group      = "package cgroup" // honoured or refused there
)

// fields is config.md, config-linux.md and the hooks, field by field. A field of a newer specification fails the test until it
// has its line here, so none can be passed over in silence.
func fields() map[string]string {
	return map[string]string{
		"ociVersion": honoured, "hostname": honoured, "domainname": honoured, "annotations": data,
		"solaris": refused, "windows": refused, "vm": refused, "zos": refused, "freebsd": refused,
		"root.path": honoured, "root.readonly": honoured,

		"process.terminal": honoured, "process.consoleSize.height": honoured, "process.consoleSize.width": honoured,
		"process.user.uid": honoured, "process.user.gid": honoured, "process.user.umask": honoured,
		"process.user.additionalGids": honoured, "process.user.username": refused,
		"process.args": honoured, "process.commandLine": refused, "process.env": honoured, "process.cwd": honoured,
		"process.capabilities.bounding": honoured, "process.capabilities.effective": honoured,
		"process.capabilities.inheritable": honoured, "process.capabilities.permitted": honoured,
		"process.capabilities.ambient": honoured, "process.noNewPrivileges": honoured,
		"process.rlimits.type": honoured, "process.rlimits.hard": honoured, "process.rlimits.soft": honoured,
		"process.apparmorProfile": whereThere, "process.selinuxLabel": whereThere, "process.oomScoreAdj": honoured,
		"process.scheduler.policy": honoured, "process.scheduler.nice": honoured, "process.scheduler.priority": honoured,
		"process.scheduler.flags": honoured, "process.scheduler.runtime": honoured, "process.scheduler.deadline": honoured,
		"process.scheduler.period": honoured, "process.ioPriority.class": honoured, "process.ioPriority.priority": honoured,
		"process.execCPUAffinity.initial": honoured, "process.execCPUAffinity.final": honoured,

		"mounts.destination": honoured, "mounts.type": honoured, "mounts.source": honoured, "mounts.options": honoured,
		"mounts.uidMappings": honoured, "mounts.gidMappings": honoured,

		"hooks.prestart": honoured, "hooks.createRuntime": honoured, "hooks.createContainer": honoured,
		"hooks.startContainer": honoured, "hooks.poststart": honoured, "hooks.poststop": honoured,

		"linux.uidMappings": honoured, "linux.gidMappings": honoured, "linux.sysctl": honoured, "linux.resources": group,
		"linux.cgroupsPath": honoured, "linux.namespaces.type": honoured, "linux.namespaces.path": honoured,
		"linux.devices.path": honoured, "linux.devices.type": honoured, "linux.devices.major": honoured,
		"linux.devices.minor": honoured, "linux.devices.fileMode": honoured, "linux.devices.uid": honoured,
		"linux.devices.gid": honoured, "linux.netDevices": honoured,
		"linux.seccomp.defaultAction": honoured, "linux.seccomp.defaultErrnoRet": honoured, "linux.seccomp.architectures": honoured,
		"linux.seccomp.flags": honoured, "linux.seccomp.listenerPath": honoured, "linux.seccomp.listenerMetadata": honoured,
		"linux.seccomp.syscalls":   honoured,
		"linux.rootfsPropagation":  honoured,
		"linux.maskedPaths":        honoured,
		"linux.readonlyPaths":      honoured,
		"linux.mountLabel":         whereThere,
		"linux.intelRdt":           whereThere,
		"linux.memoryPolicy.mode":  honoured,
		"linux.memoryPolicy.nodes": honoured,
		"linux.memoryPolicy.flags": honoured,
		"linux.personality.domain": honoured, "linux.personality.flags": refused, "linux.timeOffsets": honoured,
	}
}

// names lists the fields of a type, going into those that the table takes apart.
func names(t reflect.Type, prefix string, table map[string]string, visit func(string)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		name = prefix + name
		apart := false
		for key := range table {
			apart = apart || strings.HasPrefix(key, name+".")
		}
		if apart {
			names(f.Type, name+".", table, visit)
		} else {
			visit(name)
		}
	}
}

func TestEveryFieldIsHonouredOrRefused(t *testing.T) {
	table := fields()
	left := fields()
	names(reflect.TypeFor[specs.Spec](), "", table, func(name string) {
		if table[name] == "" {
			t.Errorf("nobody said what becomes of %s", name)
		}
		delete(left, name)
	})
	for name := range left {
		t.Errorf("%s is no field of the specification", name)
	}
}

// Whatever is refused is refused with an error before anything is made.
func TestRefusedFieldsAreErrors(t *testing.T) {
	for name, what := range fields() {
		if what != refused {
			continue
		}
		s := newSpec("/nowhere", "true")
		set(t, reflect.ValueOf(s).Elem(), strings.Split(name, "."))
		if err := Check(s); err == nil {
			t.Error(name, "is passed over in silence")
		}
	}
}

// set gives the field at path some value.
func set(t *testing.T, v reflect.Value, path []string) {
	t.Helper()
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	if len(path) == 0 {
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		case reflect.Map:
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf("x"), reflect.Zero(v.Type().Elem()))
		}
		return
	}
	for i := range v.NumField() {
		if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); name == path[0] {
			set(t, v.Field(i), path[1:])
			return
		}
	}
	t.Fatal("no field", path)
}
