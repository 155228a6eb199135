package ocirun

import (
	"fmt"

	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// checkIDMap refuses what cannot be mapped: a mount that is no bind, or half a mapping.
func (m *mount) checkIDMap() error {
	mapped := len(m.UIDMappings)+len(m.GIDMappings) > 0
	switch {
	case !mapped && m.idmap == "":
		return nil
	case !m.bind && m.Type != "bind":
		return invalid("mount %q: only a bind can have id mappings", m.Destination)
	case !mapped:
		return nil // the container's user namespace has them
	case len(m.UIDMappings) == 0 || len(m.GIDMappings) == 0:
		return invalid("mount %q: id mappings must be given for users and for groups", m.Destination)
	}
	if err := checkMappings(m.UIDMappings, m.GIDMappings); err != nil {
		return fmt.Errorf("mount %q: %w", m.Destination, err)
	}
	return nil
}

// applyIDMap maps the owners of files below a mount that stands nowhere yet (mount_setattr(2), "ID-mapped mounts").
func (m *mount) applyIDMap(own *specs.Linux) error {
	uids, gids := m.UIDMappings, m.GIDMappings
	if len(uids) == 0 && m.idmap != "" {
		if uids, gids = own.UIDMappings, own.GIDMappings; len(uids) == 0 {
			return invalid("id mappings are asked for, and neither the mount nor the container's user namespace has any")
		}
	}
	if len(uids) == 0 {
		return nil
	}
	ns, err := linux.NewUserNS(idMappings(uids), idMappings(gids))
	if err != nil {
		return err
	}
	defer ns.Close()
	a := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := linux.MountSetattr(m.tree, &a, m.idmap == "ridmap"); err != nil {
		return fmt.Errorf("id mappings: %w", err)
	}
	return nil
}

func idMappings(list []specs.LinuxIDMapping) []linux.IDMapping {
	out := make([]linux.IDMapping, len(list))
	for i, m := range list {
		out[i] = linux.IDMapping{Inside: m.ContainerID, Outside: m.HostID, Size: m.Size}
	}
	return out
}
