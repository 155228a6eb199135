package network

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Options of an endpoint, by Docker's names.
const (
	optionSysctls = "com.docker.network.endpoint.sysctls"
	optionIfname  = "com.docker.network.endpoint.ifname"
	// placeholder stands for the interface's name in the names of its kernel parameters.
	placeholder = "IFNAME"
)

// sysctl is a kernel parameter of one interface; path is below /proc/sys, with the placeholder in it.
type sysctl struct{ key, path, value string }

// endpointOptions are those of one endpoint, read.
type endpointOptions struct {
	ifname  string
	sysctls []sysctl
	rates   rates
	egress  *egress
}

// parseEndpointOptions refuses what it does not know, as parseBridgeOptions does.
func parseEndpointOptions(options map[string]string) (o endpointOptions, err error) {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		switch key {
		case optionIfname:
			o.ifname, err = options[key], checkLinkName(options[key])
		case optionReceive:
			o.rates.receive, err = parseRate(options[key])
		case optionSend:
			o.rates.send, err = parseRate(options[key])
		case OptionEgress:
			o.egress, err = parseEgress(options[key])
		case optionSysctls:
			o.sysctls, err = parseEndpointSysctls(options[key])
		default:
			return o, failf(errdefs.ErrInvalidArgument, "unknown option %q of an endpoint", key)
		}
		if err != nil {
			return o, failf(errdefs.ErrInvalidArgument, "invalid value %q of option %q: %w", options[key], key, err)
		}
	}
	return o, nil
}

// parseEndpointSysctls reads "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2".
func parseEndpointSysctls(text string) ([]sysctl, error) {
	var list []sysctl
	for entry := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(entry, "=")
		key = strings.TrimSpace(key)
		parts := strings.Split(key, ".")
		if !ok || len(parts) != 5 || parts[0] != "net" || !strings.EqualFold(parts[3], placeholder) { // Docker's client makes it lower case
			return nil, errors.New("each part is of the form net.ipv4.conf.IFNAME.log_martians=1")
		}
		parts[3], key = placeholder, strings.Join(append(parts[:3:3], placeholder, parts[4]), ".")
		for _, p := range parts {
			if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
				return nil, errors.New("a name of a kernel parameter has letters, digits, _ and - in it")
			}
		}
		list = append(list, sysctl{key, strings.Join(parts, "/"), strings.TrimSpace(value)})
	}
	return list, nil
}

// apply sets the parameter for an interface of the calling thread's namespace.
func (s sysctl) apply(link string) error {
	key := strings.Replace(s.key, placeholder, link, 1)
	err := setSysctl(strings.Replace(s.path, placeholder, link, 1), s.value)
	if notSettable(err) {
		return failf(errdefs.ErrInvalidArgument, "sysctl %q cannot be %q: %w", key, s.value, err)
	}
	return err
}

// notSettable reports whether a kernel parameter could not be set because of its name or its value.
func notSettable(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.ENAMETOOLONG, unix.EACCES, unix.EINVAL, unix.ERANGE},
		func(kind error) bool { return errors.Is(err, kind) })
}

// chooseMAC takes the hardware address that was asked for, or makes one that nobody on the network has. Called with mu
// held.
func (e *endpoint) chooseMAC(want string) error {
	nw := e.network
	if nw.rec.Driver == driverCNI {
		return e.chooseMACByPlugins(want)
	}
	if nw.rec.Driver == driverIpvlan || nw.rec.Driver == driverMacvlan && nw.lan.mode == macvlanPassthru {
		if want != "" {
			return failf(errdefs.ErrInvalidArgument, "a MAC address cannot be chosen on network %q: its containers have that of the link %q",
				nw.rec.Name, nw.rec.Link)
		}
		e.state.MAC = nw.mac.String()
		return nil
	}
	if want == "" {
		addr := e.state.IPv4.Addr()
		if !addr.IsValid() {
			addr = e.state.IPv6.Addr()
		}
		mac := randomMAC()
		if addr.IsValid() {
			mac = macFor(addr)
		}
		for e.network.macs[mac.String()] != nil { // somebody asked for just this one
			mac = randomMAC()
		}
		e.state.MAC = mac.String()
		return nil
	}
	mac, err := e.freeMAC(want)
	if err != nil {
		return err
	}
	e.state.MAC = mac.String()
	return nil
}

// freeMAC reads a hardware address that nobody on the network has. Called with mu held.
func (e *endpoint) freeMAC(want string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(want)
	if err == nil && (len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00") {
		err = errors.New("it is not the hardware address of one Ethernet interface")
	}
	if err != nil {
		return nil, failf(errdefs.ErrInvalidArgument, "invalid MAC address %q: %w", want, err)
	}
	if other := e.network.macs[mac.String()]; other != nil {
		return nil, failf(errdefs.ErrConflict, "MAC address %s is already in use on network %q by container %q", mac,
			e.network.rec.Name, other.name)
	}
	return mac, nil
}

// chooseMACByPlugins leaves it to them, unless one was asked for. Called with mu held.
func (e *endpoint) chooseMACByPlugins(want string) error {
	if want == "" {
		return nil
	}
	mac, err := e.freeMAC(want)
	if err == nil {
		e.state.MAC = mac.String()
	}
	return err
}

// bridged is the endpoint if the host has a say in what reaches it, and nil otherwise.
func (e *endpoint) bridged() *endpoint {
	if e == nil || e.network.rec.Driver != driverBridge {
		return nil
	}
	return e
}

// gateway is where packets to elsewhere go; the zero address of a version stands for the link itself.
func (e *endpoint) gateway(f family) netip.Addr {
	gw, none := e.state.Gateway, netip.IPv4Unspecified()
	if f == ip6 {
		gw, none = e.state.Gateway6, netip.IPv6Unspecified()
	}
	if e.network.lan.layer3 {
		return none
	}
	return gw
}

// routed reports whether packets come to the endpoint with its own address.
func (e *endpoint) routed(f family) bool { return e != nil && e.network.options.mode(f) == modeRouted }

// direct reports whether a port of the holding is reached at the container's own address. Called with mu held.
func (h *holding) direct(p heldPort) bool {
	if p.host.Port() == 0 {
		return true
	}
	for _, e := range h.endpoints {
		// What was published for the host alone stays there when all may come.
		inside := len(e.network.options.trusted) > 0 || e.network.direct && !p.host.Addr().IsLoopback()
		if inside && (e.state.IPv4.Addr() == p.to.Addr() || e.state.IPv6.Addr() == p.to.Addr()) {
			return true
		}
	}
	return false
}

// openRouted enters the ports of routed networks: nothing of the host is reserved and nothing is translated. What it
// returns is left to be published on the host.
func (n *Networks) openRouted(h *holding, ports []wantedPort, gw4, gw6 *endpoint) []wantedPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	var rest []wantedPort
	for _, w := range ports {
		var hosts []netip.Addr
		for _, host := range w.hosts {
			e, to := gw4, netip.Addr{}
			if host.Is6() {
				e = gw6
			}
			if !e.routed(familyOf(host)) || h.gone {
				hosts = append(hosts, host)
				continue
			}
			every := netip.IPv4Unspecified()
			if to = e.state.IPv4.Addr(); host.Is6() {
				every, to = netip.IPv6Unspecified(), e.state.IPv6.Addr()
			}
			n.hold(h, heldPort{reservation: &reservation{proto: w.proto, host: netip.AddrPortFrom(every, 0), fd: -1},
				to: netip.AddrPortFrom(to, w.container)})
		}
		if w.hosts = hosts; len(hosts) > 0 {
			rest = append(rest, w)
		}
	}
	return rest
}

// lowerKeys makes names comparable, as package dns asks for them.
func lowerKeys(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	lower := make(map[string]string, len(m))
	for k, v := range m {
		lower[strings.ToLower(k)] = strings.ToLower(v)
	}
	return lower
}
