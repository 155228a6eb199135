package network

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// NoBridge is the value of Options.Bridge for a daemon without a default network.
const NoBridge = "none"

// Options configure the networks of one daemon. Start from DefaultOptions: the zero value filters and forwards nothing.
type Options struct {
	// DataRoot holds `networks/`; RunDir holds what a reboot makes untrue.
	DataRoot string
	RunDir   string

	// Bridge is the link of the default network; NoBridge for none. A link that exists already and was not made by
	// Berth is used as it is, with the address it has.
	Bridge string
	// BIP is the default bridge's address and subnet ("172.17.0.1/16"); "" takes the first free default pool.
	BIP string
	// FixedCIDR is the part of that subnet given to containers; "" is all of it.
	FixedCIDR string
	// IPv6 gives the default network IPv6 too: with the bridge's address and subnet of BIP6, or the subnet FixedCIDR6, or one
	// of the pools or of its own. With both, FixedCIDR6 is the part of BIP6's subnet given to containers.
	IPv6             bool
	BIP6, FixedCIDR6 string
	// Gateway and Gateway6 are the default network's way out where that is not the bridge; the zero values are the bridge.
	Gateway, Gateway6 netip.Addr
	// DriverOptions are options of networks that are made without them, by driver.
	DriverOptions map[string]map[string]string
	// DirectRouting lets other hosts reach published ports at the containers' own addresses as well.
	DirectRouting bool
	// MTU of the default network in bytes; 0 is that of the link with the default route.
	MTU int
	// Pools are where networks without a subnet get one; nil is DefaultPools.
	Pools []Pool

	// IPTables (by dockerd's name) makes the nftables rules; without it nothing is filtered, translated or published.
	IPTables bool
	// IPForward turns the kernel's forwarding on.
	IPForward bool
	// IPForwardNoDrop leaves forwarding between the host's other links open when Berth had to turn it on.
	IPForwardNoDrop bool
	// IPMasq hides the default network's containers behind the host's address.
	IPMasq bool
	// ICC lets containers on the default network talk to each other.
	ICC bool

	// Firewall is what makes the rules: FirewallAuto ("" too), FirewallNFTables or FirewallIPTables.
	Firewall string

	// RespectFirewall lets whoever rules the host's input decide who reaches published ports; without it all do.
	RespectFirewall bool

	// Relay carries what comes to published ports by IPv6 to containers that have IPv4 only.
	Relay bool

	// CNIConfDir and CNIBinDirs have the CNI configurations and their plugins; nothing is where they usually are. CNITimeout is
	// how long plugins may take; 0 is half a minute.
	CNIConfDir string
	CNIBinDirs []string
	CNITimeout time.Duration

	// HostIP is where ports are published that name no address; the zero value is every address.
	HostIP netip.Addr

	// Warm is how many network namespaces an idle daemon keeps ready on the default network; 0 is 2, negative is none.
	Warm int

	// Keeper is a program that calls Keep with its last argument: the path of it, the words of its command line. None
	// means that ports and names rest while the daemon is away.
	Keeper []string

	// OnRefused hears of what an egress policy refused, not of every packet; it must not block. nil is nobody.
	OnRefused func(Refused)

	Log *slog.Logger
}

// DefaultOptions are dockerd's defaults, with a link of our own.
func DefaultOptions(dataRoot, runDir string) Options {
	return Options{DataRoot: dataRoot, RunDir: runDir, Bridge: "berth0", IPTables: true, IPForward: true,
		IPMasq: true, ICC: true, Relay: true}
}

// Pool is a range of addresses and the length of the prefixes cut from it.
type Pool struct {
	Base netip.Prefix
	Size int
}

// DefaultPools gives the default bridge 172.17.0.0/16 and every other network a /22, which holds as many containers as
// a Linux bridge has ports: 896 of them in Docker's own range, then 64 in 192.168, then 8,192 in the upper half of 10.
func DefaultPools() []Pool {
	return []Pool{
		{netip.MustParsePrefix("172.17.0.0/16"), 16},
		{netip.MustParsePrefix("172.18.0.0/15"), 22},
		{netip.MustParsePrefix("172.20.0.0/14"), 22},
		{netip.MustParsePrefix("172.24.0.0/13"), 22},
		{netip.MustParsePrefix("192.168.0.0/16"), 22},
		{netip.MustParsePrefix("10.128.0.0/9"), 22},
	}
}

// complete checks the options and fills in what was left open.
func (o *Options) complete() error {
	if o.DataRoot == "" || o.RunDir == "" {
		return failf(errdefs.ErrInvalidArgument, "the networks need a data root and a run directory")
	}
	if o.Bridge == "" {
		o.Bridge = "berth0"
	}
	if err := checkLinkName(o.Bridge); err != nil {
		return err
	}
	if o.MTU != 0 && (o.MTU < minMTU || o.MTU > maxMTU) {
		return failf(errdefs.ErrInvalidArgument, "the MTU %d is outside of %d to %d", o.MTU, minMTU, maxMTU)
	}
	if o.IPv6 && o.MTU != 0 && o.MTU < minMTU6 {
		return failf(errdefs.ErrInvalidArgument, "the MTU %d of the default network is too small for IPv6, which needs %d", o.MTU, minMTU6)
	}
	switch o.Firewall = cmp.Or(o.Firewall, FirewallAuto); o.Firewall {
	case FirewallAuto, FirewallNFTables, FirewallIPTables:
	default:
		return failf(errdefs.ErrInvalidArgument, "firewall backend %q is neither auto, nftables nor iptables", o.Firewall)
	}
	if o.Pools == nil {
		o.Pools = DefaultPools()
	}
	for _, p := range o.Pools {
		if !p.Base.IsValid() || p.Base != p.Base.Masked() || p.Size < p.Base.Bits() || p.Size > p.Base.Addr().BitLen()-2 {
			return failf(errdefs.ErrInvalidArgument, "the address pool %q cannot be cut into networks of /%d", p.Base, p.Size)
		}
	}
	for driver, options := range o.DriverOptions {
		if err := checkDriverOptions(driver, options); err != nil {
			return failf(errdefs.ErrInvalidArgument, "default-network-opts: %w", err)
		}
	}
	if !o.IPv6 && (o.BIP6 != "" || o.FixedCIDR6 != "" || o.Gateway6.IsValid()) {
		return failf(errdefs.ErrInvalidArgument, "bip6, fixed-cidr-v6 and default-gateway-v6 are of a default network with IPv6, which \"ipv6\" turns on")
	}
	if o.Warm == 0 {
		o.Warm = 2
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Check says what is wrong with the options as far as that can be told without a look at the host.
func (o Options) Check() error { return o.complete() }

// checkDriverOptions says whether a driver takes these options.
func checkDriverOptions(driver string, options map[string]string) error {
	var err error
	switch {
	case driver == driverBridge:
		_, err = parseBridgeOptions(options)
	case isLAN(driver):
		_, err = parseLANOptions(driver, options)
	default:
		err = failf(errdefs.ErrInvalidArgument, "driver %q has no default options: bridge, macvlan and ipvlan have", driver)
	}
	return err
}

const (
	minMTU  = 68    // RFC 791: every link must carry it
	minMTU6 = 1280  // RFC 8200, 5: the kernel gives a link with less no address
	maxMTU  = 65535 // what the kernel's bridge and veth take
)

// checkLinkName refuses what the kernel would refuse, and what would be a path below /proc/sys, or means every link there.
func checkLinkName(name string) error {
	bad := name == "" || name == "." || name == ".." || name == "all" || name == "default" || len(name) >= unix.IFNAMSIZ
	for _, c := range []byte(name) {
		bad = bad || c <= ' ' || c == '/' || c == ':' || c == '"' || c == '%' || c == '*' || c >= 0x7f
	}
	if bad {
		return failf(errdefs.ErrInvalidArgument, "%q cannot be the name of a link", name)
	}
	return nil
}

// failure is an error of one of errdefs' kinds whose text is the sentence alone: clients and scripts see the text.
type failure struct {
	kind  error
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }

func (f *failure) Unwrap() []error {
	if f.cause == nil {
		return []error{f.kind}
	}
	return []error{f.kind, f.cause}
}

func failf(kind error, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &failure{kind: kind, text: err.Error(), cause: err}
}
