package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Options of an endpoint that bound its bandwidth: what the container receives and what it sends.
const (
	optionReceive = "rx"
	optionSend    = "tx"
)

// rates are in bytes per second; 0 is no bound. Each is a token bucket (tc-tbf(8)) on the link where the packets leave:
// our end of the pair for what the container receives, its own end for what it sends. A container with the capability
// NET_ADMIN can take the latter away.
type rates struct{ receive, send uint64 }

// parseRate reads "10mbit", with kbit, mbit, gbit or bit behind the number, in powers of 1000. "0" is no bound.
func parseRate(text string) (uint64, error) {
	digits := strings.TrimRight(strings.ToLower(text), "kmgbit")
	units := map[string]float64{"": 1, "bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
	unit, ok := units[strings.ToLower(text)[len(digits):]]
	v, err := strconv.ParseFloat(digits, 64)
	if digits == "" || strings.Trim(digits, "0123456789.") != "" || !ok || err != nil {
		return 0, errors.New("it is a number of bits per second, as in 800kbit, 10mbit or 1.5gbit, or 0 for no bound")
	}
	const least, most = 8000, 1e12
	if bits := v * unit; bits != 0 && (bits < least || bits > most) {
		return 0, errors.New("it is from 8kbit to 1000gbit")
	}
	return uint64(v * unit / 8), nil
}

// shape bounds what the endpoint receives and sends. It runs on a thread in the container's namespace. was tells whether
// there may be bounds from before.
func (n *Networks) shape(e *endpoint, r rates, was bool) error {
	if r == (rates{}) && !was {
		return nil
	}
	if r.receive > 0 && isLAN(e.network.rec.Driver) {
		return failf(errdefs.ErrInvalidArgument, "option %q is not for network %q: what the driver %s delivers passes no link of the host's own",
			optionReceive, e.network.rec.Name, e.network.rec.Driver)
	}
	if !isLAN(e.network.rec.Driver) {
		if err := bound(n.handle, e.host, r.receive, int(e.network.mtu.Load())); err != nil {
			return fmt.Errorf("bound what interface %q receives: %w", e.state.Interface, err)
		}
	}
	inside, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open an rtnetlink socket: %w", err)
	}
	defer inside.Close()
	if err := bound(inside, e.state.Interface, r.send, int(e.network.mtu.Load())); err != nil {
		return fmt.Errorf("bound what interface %q sends: %w", e.state.Interface, err)
	}
	return nil
}

// bound puts a token bucket on a link, changes the one there is, or removes it.
func bound(h *netlink.Handle, link string, rate uint64, mtu int) error {
	l, err := h.LinkByName(link)
	if err != nil {
		return err
	}
	attrs := netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	if rate == 0 {
		err := h.QdiscDel(&netlink.Tbf{QdiscAttrs: attrs})
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) { // the link has the kernel's own
			return nil
		}
		return err
	}
	// Ten milliseconds' worth, and at least one packet as the kernel hands it on, which may be 64 KiB; what waits longer
	// than 100 ms is dropped.
	burst := max(rate/100, 64<<10+uint64(mtu))
	const most = 1 << 31
	return explainTC(h.QdiscReplace(&netlink.Tbf{QdiscAttrs: attrs, Rate: rate, Limit: uint32(min(burst+rate/10, most)),
		Buffer: netlink.Xmittime(rate, uint32(min(burst, most)))}))
}

func explainTC(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return failf(errdefs.ErrNotImplemented, "the kernel has no token buckets (CONFIG_NET_SCH_TBF): %w", err)
	}
	return err
}

// ShapeRequest asks for other bounds of an interface of a container that runs.
type ShapeRequest struct {
	ContainerID string
	NetNS       *os.File // stays the caller's
	Network     string   // name or ID
	Options     map[string]string
	DNS         []string // as in AttachRequest
}

// Shape changes the bounds of bandwidth and the egress policy to what the options say. Only they may be among the options.
func (n *Networks) Shape(ctx context.Context, r ShapeRequest) error {
	o, err := CheckShape(r.Options)
	if err != nil {
		return err
	}
	n.mu.Lock()
	var e *endpoint
	h := n.held[r.ContainerID]
	if h != nil {
		for _, c := range h.endpoints {
			if c.network.rec.ID == r.Network || c.network.rec.Name == r.Network {
				e = c
			}
		}
	}
	n.mu.Unlock()
	if e == nil {
		return failf(errdefs.ErrPermissionDenied, "container %s is not connected to network %s", r.ContainerID, r.Network)
	}
	if isCNI(e) && o.rates != e.rates {
		return failf(errdefs.ErrFailedPrecondition, "the plugins of network %[1]q bound what container %[2]s receives and sends when it comes to the "+
			"network, and do not change that: disconnect it (network disconnect %[1]s %[2]s) and connect it with the new bounds "+
			"(network connect --driver-opt %[3]s=… --driver-opt %[4]s=… %[1]s %[2]s), or change them while it is stopped",
			e.network.rec.Name, e.name, optionReceive, optionSend)
	}
	if err := n.setEgress(h, e, o.egress, r.NetNS, r.DNS); err != nil || isCNI(e) {
		return err
	}
	n.keep(r.ContainerID)
	return n.inNetNS(r.NetNS, func() error { return n.shape(e, o.rates, true) })
}

// CheckShape refuses what Shape would refuse of options.
func CheckShape(options map[string]string) (endpointOptions, error) {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		if key != optionReceive && key != optionSend && key != OptionEgress {
			return endpointOptions{}, failf(errdefs.ErrInvalidArgument, "option %q cannot be changed: only %s, %s and %s can", key, optionReceive, optionSend, OptionEgress)
		}
	}
	return parseEndpointOptions(options)
}

// PublishRequest asks for other published ports of a container that runs.
type PublishRequest struct {
	ContainerID, Name string
	Remove, Add       []PortRequest // of Remove an empty HostIP or HostPort means any
}

// Publish closes and opens published ports. Where it fails everything is as it was.
func (n *Networks) Publish(ctx context.Context, r PublishRequest) (*Attachment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	h := n.held[r.ContainerID]
	if h == nil || h.gone {
		n.mu.Unlock()
		return nil, failf(errdefs.ErrFailedPrecondition, "container %s has no network of its own, so that its ports cannot be published", r.Name)
	}
	gw4, gw6 := h.gateways()
	var kept, closed []heldPort
	for _, p := range h.ports {
		if slices.ContainsFunc(r.Remove, func(q PortRequest) bool { return q.means(p) }) {
			if p.by != nil {
				n.mu.Unlock()
				return nil, failf(errdefs.ErrFailedPrecondition, "port %s is published by the plugins of network %q, who do so as long as the container "+
					"is connected to it: stop container %s, change its ports and start it", p.host, p.by.network.rec.Name, r.Name)
			}
			closed = append(closed, p)
		} else {
			kept = append(kept, p)
		}
	}
	h.ports = kept
	n.mu.Unlock()
	err := n.closePorts(r.ContainerID, closed, false)
	if err == nil && len(r.Add) > 0 {
		switch {
		case gw4.bridged() != nil || gw6.bridged() != nil:
			err = n.publish(h, r.Name, r.Add, gw4, gw6)
		case isCNI(gw4) || isCNI(gw6):
			err = failf(errdefs.ErrFailedPrecondition, "the ports of container %[1]s are published by the plugins of its network, when it comes to that: "+
				"stop container %[1]s, change its ports and start it", r.Name)
		default:
			err = failf(errdefs.ErrFailedPrecondition, "container %s is on no network that is reached from outside, so that its ports cannot be published", r.Name)
		}
	}
	if err != nil {
		n.mu.Lock()
		fresh := slices.DeleteFunc(slices.Clone(h.ports), func(p heldPort) bool {
			return slices.ContainsFunc(kept, func(o heldPort) bool { return o.reservation == p.reservation })
		})
		if !h.gone {
			h.ports = kept
		}
		n.mu.Unlock()
		_ = n.closePorts(r.ContainerID, fresh, false)
		if len(closed) > 0 {
			err = errors.Join(err, n.publish(h, r.Name, requestsFor(closed), gw4, gw6))
		}
	}
	n.keep(r.ContainerID)
	if err != nil {
		return nil, err
	}
	return n.describe(h), nil
}

// means reports whether the request is about the port.
func (q PortRequest) means(p heldPort) bool {
	return q.Container == p.to.Port() && strings.EqualFold(q.Proto, p.proto.String()) &&
		(q.HostIP == "" || q.HostIP == p.host.Addr().String()) && (q.HostPort == "" || q.HostPort == strconv.Itoa(int(p.host.Port())))
}

// requestsFor ask for the same ports again.
func requestsFor(ports []heldPort) []PortRequest {
	var rs []PortRequest
	for _, p := range ports {
		rs = append(rs, PortRequest{Container: p.to.Port(), Proto: p.proto.String(), HostIP: p.host.Addr().String(),
			HostPort: strconv.Itoa(int(p.host.Port()))})
	}
	return rs
}
