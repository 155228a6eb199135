package network

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/durable"
	"github.com/containerd/errdefs"
)

// Names and drivers of the networks that are always there.
const (
	defaultName  = "bridge"
	hostName     = "host"
	noneName     = "none"
	driverBridge = "bridge"
	driverHost   = "host"
	driverNull   = "null"
)

const recordVersion = 1

// record is one file `networks/<id>.json`.
type record struct {
	Version     int               `json:"version"`
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Driver      string            `json:"driver"`
	Created     time.Time         `json:"created"`
	Internal    bool              `json:"internal,omitempty"`
	Attachable  bool              `json:"attachable,omitempty"`
	IPv4        bool              `json:"ipv4"`
	IPv6        bool              `json:"ipv6,omitempty"`
	Subnets     []Subnet          `json:"subnets,omitempty"`
	Configured  bool              `json:"configured,omitempty"` // the creator chose the subnets
	IPAMOptions map[string]string `json:"ipamOptions,omitempty"`
	Options     map[string]string `json:"options,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Link        string            `json:"link,omitempty"`
	// IPAMDriver is "" for ours, or "null": no addresses.
	IPAMDriver string `json:"ipamDriver,omitempty"`
	// ConfigOnly marks what is no network but the settings of others, and ConfigFrom names the one this has its from.
	ConfigOnly bool   `json:"configOnly,omitempty"`
	ConfigFrom string `json:"configFrom,omitempty"`
}

// ipamNull is the IPAM driver that gives no addresses.
const ipamNull = "null"

func (r *record) view() Network {
	return Network{ID: r.ID, Name: r.Name, Driver: r.Driver, Created: r.Created, Internal: r.Internal,
		Attachable: r.Attachable, IPv4: r.IPv4, IPv6: r.IPv6, Subnets: slices.Clone(r.Subnets),
		IPAMOptions: maps.Clone(r.IPAMOptions), Options: maps.Clone(r.Options), Labels: maps.Clone(r.Labels), Link: r.Link,
		IPAMDriver: cmp.Or(r.IPAMDriver, "default"), ConfigOnly: r.ConfigOnly, ConfigFrom: r.ConfigFrom}
}

// predefined networks are made by Open and cannot be removed.
func (r *record) predefined() bool {
	return r.Name == defaultName || r.Name == hostName || r.Name == noneName
}

func (n *Networks) recordPath(id string) string {
	return filepath.Join(n.opts.DataRoot, "networks", id+".json")
}

func (n *Networks) save(r *record) error {
	r.Version = recordVersion
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := durable.ReplaceFile(n.recordPath(r.ID), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("save network %q: %w", r.Name, err)
	}
	return nil
}

// load reads every record. One that cannot be understood is set aside and reported; it does not hold up the others.
func (n *Networks) load() ([]*record, error) {
	dir := filepath.Join(n.opts.DataRoot, "networks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of networks: %w", err)
	}
	if err := durable.RemoveTemporary(dir); err != nil {
		return nil, fmt.Errorf("clean the directory of networks: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the directory of networks: %w", err)
	}
	var records []*record
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		r, err := readRecord(path, id)
		if err != nil {
			n.log.Error("a network's record is damaged and set aside", "file", path, "error", err)
			if err := os.Rename(path, path+".damaged"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("set a damaged record aside: %w", err)
			}
			continue
		}
		records = append(records, r)
	}
	return records, nil
}

func readRecord(path, id string) (*record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	switch {
	case r.Version != recordVersion:
		return nil, fmt.Errorf("version %d is not known", r.Version)
	case r.ID != id || !isID(id):
		return nil, fmt.Errorf("it says its ID is %q", r.ID)
	}
	if !joins(r.Driver) {
		return r, nil
	}
	if r.Driver == driverCNI {
		_, err = parseCNIOptions(r.Name, r.Options)
		return r, err
	}
	if err := checkLinkName(r.Link); err != nil {
		return nil, err
	}
	if r.Subnets, err = completeSubnets(r.Subnets, true); err != nil {
		return nil, err
	}
	if isLAN(r.Driver) {
		_, err = parseLANOptions(r.Driver, r.Options)
	} else {
		_, err = parseBridgeOptions(r.Options)
	}
	return r, err
}

// The options that stand for --ipv4 and --ipv6 where those are not given.
const (
	optionIPv4 = "com.docker.network.enable_ipv4"
	optionIPv6 = "com.docker.network.enable_ipv6"
)

func isID(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == 64
}

// bridgeOptions are a bridge network's driver options, read.
type bridgeOptions struct {
	link       string
	icc        bool
	masquerade bool
	mtu        int    // 0: the daemon's
	hostIP     string // "": the daemon's
	prefix     string // of the interfaces inside
	modes      map[family]gatewayMode
	inhibit4   bool                  // somebody else gives the bridge its IPv4 address
	spoofing   bool                  // containers may speak for others
	egress     *egress               // where containers may go; nil is everywhere
	trusted    []string              // links of the host from which published ports are reached at the containers' own addresses
	behind     map[family]netip.Addr // the address of the host that containers leave with; none is that of the link
}

func (o bridgeOptions) mode(f family) gatewayMode {
	if m := o.modes[f]; m != "" {
		return m
	}
	return modeNAT
}

// optionSpoofing lets the containers of a network send what is not from their own addresses.
const optionSpoofing = "berth.bridge.allow_spoofing"

// gatewayMode is how packets get into a bridge network and out of it, for one IP version.
type gatewayMode string

const (
	modeNAT         = gatewayMode("nat")             // hidden behind the host's address, reached through published ports
	modeUnprotected = gatewayMode("nat-unprotected") // the same, and every port is reached at the container's own address
	modeRouted      = gatewayMode("routed")          // with their own addresses, reached there on published ports
	modeIsolated    = gatewayMode("isolated")        // the bridge has no address; internal networks only
)

func parseGatewayMode(value string) (gatewayMode, error) {
	switch m := gatewayMode(value); m {
	case "":
		return modeNAT, nil
	case modeNAT, modeUnprotected, modeRouted, modeIsolated:
		return m, nil
	}
	return "", errors.New(`it is "nat", "nat-unprotected", "routed" or "isolated"`)
}

// parseSource reads an address that packets can come from.
func parseSource(text string, f family) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err == nil && (a.Is4In6() || a.Zone() != "" || familyOf(a) != f):
		err = fmt.Errorf("it is not an address of version %d", map[family]int{ip4: 4, ip6: 6}[f])
	case err == nil && (!a.IsGlobalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})):
		err = errors.New("it is not an address that packets can come from")
	}
	return a, err
}

// parseBridgeOptions reads Docker's options of the bridge driver. One that we do not know is an error: it would not have
// the effect its giver counts on.
func parseBridgeOptions(options map[string]string) (bridgeOptions, error) {
	o := bridgeOptions{icc: true, masquerade: true, prefix: "eth", modes: map[family]gatewayMode{}, behind: map[family]netip.Addr{}}
	for _, key := range slices.Sorted(maps.Keys(options)) {
		value := options[key]
		var err error
		switch key {
		case "com.docker.network.bridge.name":
			o.link = value
			err = checkLinkName(value)
		case "--icc", "--ip-masq": // minikube's way to say what is the default
			if value != "" && value != "true" {
				err = errors.New(`to switch it off there are com.docker.network.bridge.enable_icc and enable_ip_masquerade`)
			}
		case "com.docker.network.bridge.enable_icc":
			o.icc, err = strconv.ParseBool(value)
		case "com.docker.network.bridge.enable_ip_masquerade":
			o.masquerade, err = strconv.ParseBool(value)
		case "com.docker.network.driver.mtu", "mtu":
			o.mtu, err = strconv.Atoi(value)
			if err == nil && (o.mtu < minMTU || o.mtu > maxMTU) {
				err = fmt.Errorf("it is %d to %d", minMTU, maxMTU)
			}
		case "com.docker.network.bridge.host_binding_ipv4":
			o.hostIP = value
			_, err = parseIPv4(value)
		case "com.docker.network.host_ipv4":
			o.behind[ip4], err = parseSource(value, ip4)
		case "com.docker.network.host_ipv6":
			o.behind[ip6], err = parseSource(value, ip6)
		case "com.docker.network.container_iface_prefix", "com.docker.network.container_interface_prefix":
			o.prefix = value
			err = checkLinkName(value + "999")
		case "com.docker.network.bridge.default_bridge":
			_, err = strconv.ParseBool(value)
		case "com.docker.network.bridge.gateway_mode_ipv4":
			o.modes[ip4], err = parseGatewayMode(value)
		case "com.docker.network.bridge.gateway_mode_ipv6":
			o.modes[ip6], err = parseGatewayMode(value)
		case "com.docker.network.bridge.inhibit_ipv4":
			o.inhibit4, err = strconv.ParseBool(value)
		case "com.docker.network.bridge.trusted_host_interfaces":
			for _, l := range strings.Split(value, ":") {
				err = cmp.Or(err, checkLinkName(l))
				o.trusted = append(o.trusted, l)
			}
		case OptionEgress:
			o.egress, err = parseEgress(value)
		case optionSpoofing:
			o.spoofing, err = strconv.ParseBool(value)
		case optionIPv4, optionIPv6:
			_, err = strconv.ParseBool(value)
		default:
			return o, failf(errdefs.ErrInvalidArgument, "unknown option %q of a bridge network", key)
		}
		if err != nil {
			return o, failf(errdefs.ErrInvalidArgument, "invalid value %q of option %q: %w", value, key, err)
		}
	}
	return o, nil
}
