package ocirun

import (
	"errors"
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// check refuses what cannot be carried out, so that nothing in a spec is passed over in silence.
func check(s *specs.Spec) error {
	switch {
	case s == nil:
		return errors.New("there is no spec")
	case s.Linux == nil:
		return errors.New("the spec is not for Linux")
	case s.Process == nil:
		return errors.New("the spec has no process")
	case len(s.Process.Args) == 0 || s.Process.Args[0] == "":
		return errors.New("the spec names no program to run")
	case !path.IsAbs(s.Process.Cwd):
		return fmt.Errorf("the working directory %q is not absolute", s.Process.Cwd)
	case s.Hooks != nil && len(s.Hooks.CreateRuntime)+len(s.Hooks.CreateContainer)+len(s.Hooks.StartContainer)+
		len(s.Hooks.Poststart)+len(s.Hooks.Poststop)+len(s.Hooks.Prestart) > 0: //nolint:staticcheck // deprecated, still refused
		return errors.New("hooks are not carried out by this version")
	case len(s.Linux.UIDMappings)+len(s.Linux.GIDMappings) > 0:
		return errors.New("user namespaces are not carried out by this version")
	case s.Linux.IntelRdt != nil:
		return errors.New("Intel RDT is not carried out by this version")
	case s.Linux.Personality != nil:
		return errors.New("a personality is not carried out by this version")
	case len(s.Linux.TimeOffsets) > 0:
		return errors.New("time namespaces are not carried out by this version")
	case s.Process.Scheduler != nil || s.Process.IOPriority != nil:
		return errors.New("scheduler and IO priority are not carried out by this version")
	case s.Process.ApparmorProfile != "":
		return errors.New("AppArmor is not carried out by this version")
	case s.Process.SelinuxLabel != "" || s.Linux.MountLabel != "":
		return errors.New("SELinux is not carried out by this version")
	case s.VM != nil || s.Windows != nil || s.Solaris != nil:
		return errors.New("the spec is for another platform")
	}
	mount := false
	for _, ns := range s.Linux.Namespaces {
		if _, ok := nsFlags[ns.Type]; !ok {
			return fmt.Errorf("a %s namespace is not carried out by this version", ns.Type)
		}
		mount = mount || ns.Type == specs.MountNamespace
	}
	if !mount {
		return errors.New("a container needs a mount namespace of its own")
	}
	for _, m := range s.Mounts {
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			return fmt.Errorf("mount %q: mapped mounts are not carried out by this version", m.Destination)
		}
	}
	// A NUL byte would end a string early for the kernel and not for us.
	for _, list := range [][]string{s.Process.Args, s.Process.Env, {s.Process.Cwd, s.Hostname, s.Domainname},
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths} {
		for _, text := range list {
			if strings.IndexByte(text, 0) >= 0 {
				return fmt.Errorf("%q contains a NUL byte", text)
			}
		}
	}
	return nil
}
