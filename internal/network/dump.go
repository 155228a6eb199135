package network

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumpRetries is how often a list is asked for again before its last answer is taken as an error.
const dumpRetries = 100

// whole asks for a list until the kernel gave it in one piece: while other links come and go, and on a busy host they
// always do, it marks a list that may have holes.
func whole[T any](ask func() ([]T, error)) (list []T, err error) {
	for range dumpRetries {
		if list, err = ask(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}

func dumpLinks(h *netlink.Handle) ([]netlink.Link, error) { return whole(h.LinkList) }

// dumpAddrs lists the addresses of a link, of all links when it is nil.
func dumpAddrs(h *netlink.Handle, l netlink.Link, family int) ([]netlink.Addr, error) {
	return whole(func() ([]netlink.Addr, error) { return h.AddrList(l, family) })
}

// dumpRoutes lists the main table's routes through a link, through all links when it is nil.
func dumpRoutes(h *netlink.Handle, l netlink.Link, family int) ([]netlink.Route, error) {
	return whole(func() ([]netlink.Route, error) { return h.RouteList(l, family) })
}
