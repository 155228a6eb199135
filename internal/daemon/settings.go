package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/network"
	"github.com/berth-engine/berth/internal/registryd"
	"github.com/docker/go-units"
)

// Config is every setting, complete with defaults. It is not changed after Load; a reload makes another.
type Config struct {
	ConfigFile, PidFile, DataRoot, ExecRoot string
	Hosts                                   []string
	Group                                   string
	TLS                                     *bool // nil: not said
	TLSVerify                               bool
	TLSCACert, TLSCert, TLSKey              string
	MinAPIVersion                           string

	Bridge, BIP, FixedCIDR    string
	IPv6                      bool
	BIP6, FixedCIDR6          string
	Gateway, Gateway6         string
	NetworkOptions            map[string]map[string]string // by driver
	DirectRouting             bool
	MTU                       int
	Pools                     []Pool
	IPTables, IPForward       bool
	IPForwardNoDrop           bool
	IPMasq, ICC               bool
	UserlandProxy             bool
	FirewallBackend           string // auto, nftables or iptables
	CNIConfDir                string
	CNIBinDirs                []string
	PublishPolicy             string // open or respect-host-firewall
	PublishIP                 string // where ports are published unless a container says otherwise
	DNS, DNSSearch, DNSOption []string
	HostGateway               []string // what "host-gateway" stands for; empty: where a container reaches the host
	HostGatewayIP             string   // one more, by the key's older name

	LogDriver  string
	LogOptions map[string]string
	Mirrors    []string
	Insecure   []string
	Downloads  int

	ImageGCHigh, ImageGCLow, ImageGCMinAge string // see image.Policy

	Ulimits        map[string]container.Ulimit
	Init           bool
	StorageDriver  string // "" chooses what works
	ShmSize        int64  // bytes
	Seccomp        string
	NoNewPrivs     bool
	CgroupParent   string
	DefaultRuntime string
	RuntimePath    string

	Labels                         []string
	Debug                          bool
	LogLevel, LogFormat            string
	ShutdownTimeout                int // seconds
	HTTPProxy, HTTPSProxy, NoProxy string

	Registry *registryd.Settings // nil: `berth registry serve -d` says

	Validate, Version, Help bool
}

// Pool is a range of addresses from which networks of one size are cut.
type Pool struct {
	Base string `json:"base"`
	Size int    `json:"size"`
}

// setting is one line of the table.
type setting struct {
	flag  string // on the command line; "" when only the file has it
	short string
	key   string // in the file; "" when only the command line has it
	value string // what help calls the value; "" is a flag that needs none
	help  string
	live  bool // a reload changes it
	// to is where the value goes; its type says how it is read.
	to func(*Config) any
}

// only is a setting with one permitted value: what it would otherwise choose between, Berth has decided.
type only struct {
	want string
	why  string
}

// defaults are the settings of a daemon that was told nothing.
func defaults() Config {
	return Config{
		ConfigFile: defaultConfigFile, DataRoot: "/var/lib/berth", ExecRoot: "/run/berth",
		Bridge: "berth0", PublishPolicy: policyOpen, FirewallBackend: network.FirewallAuto, IPTables: true, IPForward: true, IPMasq: true, ICC: true,
		UserlandProxy: true,
		LogDriver:     "json-file", LogOptions: map[string]string{}, Downloads: 3,
		Ulimits: map[string]container.Ulimit{}, ShmSize: 64 << 20, DefaultRuntime: "berth-runtime",
		ImageGCMinAge: "1h", LogLevel: "info", LogFormat: "text", ShutdownTimeout: 15, MinAPIVersion: "1.24",
	}
}

const defaultConfigFile = "/etc/berth/daemon.json"

func settings() []setting {
	return []setting{
		{"config-file", "", "", "FILE", "Daemon configuration file", false,
			func(c *Config) any { return &c.ConfigFile }},
		{"data-root", "", "data-root", "DIR", "Root directory of persistent state", false,
			func(c *Config) any { return &c.DataRoot }},
		{"exec-root", "", "exec-root", "DIR", "Root directory of the state of running containers", false,
			func(c *Config) any { return &c.ExecRoot }},
		{"pidfile", "p", "pidfile", "FILE", "Where to write the daemon's process ID (default EXEC-ROOT/berthd.pid)", false,
			func(c *Config) any { return &c.PidFile }},
		{"host", "H", "hosts", "URL", "unix://PATH, tcp://HOST:PORT, fd:// (default unix://EXEC-ROOT/berth.sock)", false,
			func(c *Config) any { return &c.Hosts }},
		{"group", "G", "group", "NAME", "Group of the unix socket (default docker or berth, whichever exists)", false,
			func(c *Config) any { return &c.Group }},
		{"tls", "", "tls", "", "Use TLS on tcp sockets; implied by --tlsverify", false,
			func(c *Config) any { return &c.TLS }},
		{"tlsverify", "", "tlsverify", "", "Use TLS and ask clients for a certificate", false,
			func(c *Config) any { return &c.TLSVerify }},
		{"tlscacert", "", "tlscacert", "FILE", "Trust only clients whose certificate this CA signed", false,
			func(c *Config) any { return &c.TLSCACert }},
		{"tlscert", "", "tlscert", "FILE", "TLS certificate", false,
			func(c *Config) any { return &c.TLSCert }},
		{"tlskey", "", "tlskey", "FILE", "TLS key", false,
			func(c *Config) any { return &c.TLSKey }},
		{"min-api-version", "", "min-api-version", "1.NN", "Lowest API version to answer", false,
			func(c *Config) any { return &c.MinAPIVersion }},

		{"bridge", "b", "bridge", "NAME", "Name of the default network's bridge; \"none\" makes none", false,
			func(c *Config) any { return &c.Bridge }},
		{"bip", "", "bip", "CIDR", "Address of the default network's bridge", false,
			func(c *Config) any { return &c.BIP }},
		{"fixed-cidr", "", "fixed-cidr", "CIDR", "Part of the default network that is given to containers", false,
			func(c *Config) any { return &c.FixedCIDR }},
		{"ipv6", "", "ipv6", "", "Give the default network IPv6 addresses as well", false,
			func(c *Config) any { return &c.IPv6 }},
		{"bip6", "", "bip6", "CIDR", "IPv6 address of the default network's bridge", false,
			func(c *Config) any { return &c.BIP6 }},
		{"fixed-cidr-v6", "", "fixed-cidr-v6", "CIDR", "IPv6 subnet of the default network, or the part of bip6's that is given to containers", false,
			func(c *Config) any { return &c.FixedCIDR6 }},
		{"default-gateway", "", "default-gateway", "ADDRESS", "Where containers on the default network leave it, instead of the bridge", false,
			func(c *Config) any { return &c.Gateway }},
		{"default-gateway-v6", "", "default-gateway-v6", "ADDRESS", "The same for IPv6", false,
			func(c *Config) any { return &c.Gateway6 }},
		{"default-network-opt", "", "default-network-opts", "DRIVER=KEY=VALUE", "Option of new networks that are made without it", false,
			func(c *Config) any { return &c.NetworkOptions }},
		{"allow-direct-routing", "", "allow-direct-routing", "",
			"Let other hosts reach published ports at containers' own addresses, too", false,
			func(c *Config) any { return &c.DirectRouting }},
		{"mtu", "", "mtu", "N", "MTU of the default network", false,
			func(c *Config) any { return &c.MTU }},
		{"default-address-pool", "", "default-address-pools", "base=CIDR,size=N", "Addresses for new networks", false,
			func(c *Config) any { return &c.Pools }},
		{"iptables", "", "iptables", "", "Make firewall rules (with nftables)", false,
			func(c *Config) any { return &c.IPTables }},
		{"firewall-backend", "", "firewall-backend", "NAME", "What makes the rules: auto, nftables, or iptables (legacy, for kernels without nftables)", false,
			func(c *Config) any { return &c.FirewallBackend }},
		{"ip-forward", "", "ip-forward", "", "Enable forwarding in the kernel", false,
			func(c *Config) any { return &c.IPForward }},
		{"ip-forward-no-drop", "", "ip-forward-no-drop", "", "Enabling forwarding leaves it open between other links", false,
			func(c *Config) any { return &c.IPForwardNoDrop }},
		{"ip-masq", "", "ip-masq", "", "Masquerade what leaves the default network", false,
			func(c *Config) any { return &c.IPMasq }},
		{"icc", "", "icc", "", "Let containers on the default network talk to each other", false,
			func(c *Config) any { return &c.ICC }},
		{"publish-policy", "", "publish-policy", "POLICY", "Who reaches published ports: open, or respect-host-firewall", false,
			func(c *Config) any { return &c.PublishPolicy }},
		{"cni-conf-dir", "", "cni-conf-dir", "DIR", "CNI configurations for networks of the driver cni (default /etc/cni/net.d)", false,
			func(c *Config) any { return &c.CNIConfDir }},
		{"cni-bin-dir", "", "cni-bin-dir", "DIR", "Where the CNI plugins are (default /opt/cni/bin, /usr/lib/cni and /usr/libexec/cni)", false,
			func(c *Config) any { return &c.CNIBinDirs }},
		{"userland-proxy", "", "userland-proxy", "", "Relay what comes by IPv6 to ports of containers with IPv4 only", false,
			func(c *Config) any { return &c.UserlandProxy }},
		{"ip", "", "ip", "ADDRESS", "Host address to publish ports on", false,
			func(c *Config) any { return &c.PublishIP }},
		{"dns", "", "dns", "ADDRESS", "Name server of containers", false,
			func(c *Config) any { return &c.DNS }},
		{"dns-search", "", "dns-search", "DOMAIN", "Search domain of containers", false,
			func(c *Config) any { return &c.DNSSearch }},
		{"dns-opt", "", "dns-opts", "OPTION", "Resolver option of containers", false,
			func(c *Config) any { return &c.DNSOption }},
		{"host-gateway-ip", "", "host-gateway-ips", "ADDRESS",
			"What host-gateway stands for in --add-host: one IPv4 and one IPv6 address (default where the container reaches the host)", false,
			func(c *Config) any { return &c.HostGateway }},
		{"", "", "host-gateway-ip", "", "", false, func(c *Config) any { return &c.HostGatewayIP }},

		{"log-driver", "", "log-driver", "NAME", "Where containers' output goes: json-file or none", false,
			func(c *Config) any { return &c.LogDriver }},
		{"log-opt", "", "log-opts", "KEY=VALUE", "Option of the log driver", false,
			func(c *Config) any { return &c.LogOptions }},
		{"registry-mirror", "", "registry-mirrors", "[HOST=]URL", "Mirror of Docker Hub, or of the registry HOST", false,
			func(c *Config) any { return &c.Mirrors }},
		{"insecure-registry", "", "insecure-registries", "HOST", "Registry to be reached without (verified) TLS", false,
			func(c *Config) any { return &c.Insecure }},
		{"max-concurrent-downloads", "", "max-concurrent-downloads", "N", "Layers downloaded at once in a pull", false,
			func(c *Config) any { return &c.Downloads }},

		{"image-gc-high", "", "image-gc-high", "MARK", "Collect unused images when the disk is fuller: 85% used, or 10GB free", false,
			func(c *Config) any { return &c.ImageGCHigh }},
		{"image-gc-low", "", "image-gc-low", "MARK", "Collect them until the disk is at 75% used, or 20GB free", false,
			func(c *Config) any { return &c.ImageGCLow }},
		{"image-gc-min-age", "", "image-gc-min-age", "DURATION", "Collect no image that was used more recently (default 1h)", false,
			func(c *Config) any { return &c.ImageGCMinAge }},

		{"default-ulimit", "", "default-ulimits", "NAME=SOFT[:HARD]", "Resource limit of containers", false,
			func(c *Config) any { return &c.Ulimits }},
		{"init", "", "init", "", "Run an init in every container that does not say otherwise", false,
			func(c *Config) any { return &c.Init }},
		{"default-shm-size", "", "default-shm-size", "BYTES", "Size of /dev/shm", false,
			func(c *Config) any { return (*bytesValue)(&c.ShmSize) }},
		{"seccomp-profile", "", "seccomp-profile", "FILE", "Seccomp profile instead of the default, or \"unconfined\"", false,
			func(c *Config) any { return &c.Seccomp }},
		{"no-new-privileges", "", "no-new-privileges", "", "Set no-new-privileges in every container", false,
			func(c *Config) any { return &c.NoNewPrivs }},
		{"cgroup-parent", "", "cgroup-parent", "PATH", "Parent cgroup of containers", false,
			func(c *Config) any { return &c.CgroupParent }},
		{"default-runtime", "", "default-runtime", "NAME", "OCI runtime of containers; there is one, berth-runtime", false,
			func(*Config) any {
				return only{"berth-runtime", "other runtimes are not supported"}
			}},
		{"runtime-path", "", "runtime-path", "FILE", "The berth-runtime program (default beside berthd or in PATH)", false,
			func(c *Config) any { return &c.RuntimePath }},

		{"label", "", "labels", "KEY=VALUE", "Label of the daemon", true,
			func(c *Config) any { return &c.Labels }},
		{"debug", "D", "debug", "", "Log in detail", true, func(c *Config) any { return &c.Debug }},
		{"log-level", "l", "log-level", "LEVEL", "debug, info, warn, error or fatal", true,
			func(c *Config) any { return &c.LogLevel }},
		{"log-format", "", "log-format", "FORMAT", "text or json", false,
			func(c *Config) any { return &c.LogFormat }},
		{"shutdown-timeout", "", "shutdown-timeout", "SECONDS", "How long requests may go on when the daemon stops", true,
			func(c *Config) any { return &c.ShutdownTimeout }},
		{"http-proxy", "", "", "URL", "Proxy for registries over HTTP", false,
			func(c *Config) any { return &c.HTTPProxy }},
		{"https-proxy", "", "", "URL", "Proxy for registries over HTTPS", false,
			func(c *Config) any { return &c.HTTPSProxy }},
		{"no-proxy", "", "", "HOSTS", "Hosts to be reached without a proxy", false,
			func(c *Config) any { return &c.NoProxy }},
		{"", "", "registry", "", "", false, func(c *Config) any { return &c.Registry }},
		{"", "", "proxies", "", "", false, func(c *Config) any { return proxies{c} }},

		{"live-restore", "", "live-restore", "", "Containers outlive the daemon: always", false,
			func(*Config) any {
				return only{"true", "containers always outlive the daemon"}
			}},
		{"ip6tables", "", "ip6tables", "", "Make firewall rules for IPv6: together with --iptables", false,
			func(*Config) any {
				return only{"true", "rules for IPv6 come and go with --iptables"}
			}},
		{"storage-driver", "s", "storage-driver", "NAME",
			"How containers' files are kept: overlay2, fuse-overlayfs, btrfs or vfs (default DOCKER_DRIVER, or what works)", false,
			func(c *Config) any { return &c.StorageDriver }},
		{"selinux-enabled", "", "selinux-enabled", "", "SELinux labels: not supported", false,
			func(*Config) any {
				return only{"false", "SELinux labels are not supported"}
			}},
		{"experimental", "", "experimental", "", "Experimental features: there are none", false,
			func(*Config) any {
				return only{"false", "there are no experimental features"}
			}},
		{"rootless", "", "", "", "Run without root: not supported", false, func(*Config) any {
			return only{"false", "running without root is not supported"}
		}},

		{"validate", "", "", "", "Check the configuration and exit", false,
			func(c *Config) any { return &c.Validate }},
		{"version", "v", "", "", "Print the version and exit", false,
			func(c *Config) any { return &c.Version }},
		{"help", "h", "", "", "Print this help and exit", false,
			func(c *Config) any { return &c.Help }},
	}
}

// foreign are dockerd's settings, by flag and by key, that Berth has not.
func foreign() []string {
	return []string{
		"add-runtime", "allow-nondistributable-artifacts", "api-cors-header", "authorization-plugin",
		"authorization-plugins", "bridge-accept-fwmark", "builder", "cdi-spec-dir", "cdi-spec-dirs", "containerd",
		"containerd-namespace", "containerd-plugin-namespace", "containerd-plugins-namespace", "cpu-rt-period",
		"cpu-rt-runtime", "cri-containerd", "default-cgroupns-mode",
		"default-init", "default-ipc-mode", "default-stop-timeout",
		"exec-opt", "exec-opts", "feature", "features", "init-path", "max-concurrent-uploads", "max-download-attempts",
		"metrics-addr", "network-control-plane-mtu", "network-diagnostic-port", "node-generic-resource",
		"node-generic-resources", "nri-opts", "oom-score-adjust", "raw-logs", "resolv-conf", "runtimes", "storage-opt",
		"storage-opts", "swarm-default-advertise-addr", "swarm-raft-election-tick", "swarm-raft-heartbeat-tick",
		"userland-proxy-path", "userns-remap",
	}
}

// bytesValue is a number of bytes, with a unit or without.
type bytesValue int64

// proxies is the "proxies" object of the file.
type proxies struct{ c *Config }

// setText reads a value of the command line into to. Lists and maps grow.
func setText(to any, text string) error {
	switch to := to.(type) {
	case *string:
		*to = text
	case *[]string:
		*to = append(*to, text)
	case *bool:
		return setBool(to, text)
	case **bool:
		*to = new(bool)
		return setBool(*to, text)
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a whole number of at least 0", text)
		}
		*to = n
	case *bytesValue:
		n, err := units.RAMInBytes(text)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a size", text)
		}
		*to = bytesValue(n)
	case *map[string]string:
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return fmt.Errorf("%q is not of the form KEY=VALUE", text)
		}
		(*to)[key] = value
	case *map[string]map[string]string:
		driver, option, _ := strings.Cut(text, "=")
		key, value, ok := strings.Cut(option, "=")
		if !ok || driver == "" || key == "" {
			return fmt.Errorf("%q is not of the form DRIVER=KEY=VALUE", text)
		}
		if *to == nil {
			*to = map[string]map[string]string{}
		}
		if (*to)[driver] == nil {
			(*to)[driver] = map[string]string{}
		}
		(*to)[driver][key] = value
	case *map[string]container.Ulimit:
		u, err := units.ParseUlimit(text)
		if err != nil {
			return err
		}
		(*to)[u.Name] = container.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}
	case *[]Pool:
		p, err := parsePool(text)
		if err != nil {
			return err
		}
		*to = append(*to, p)
	case only:
		return to.check(text)
	default:
		return fmt.Errorf("no way to read a %T", to)
	}
	return nil
}

func setBool(to *bool, text string) error {
	on, err := strconv.ParseBool(text)
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", text)
	}
	*to = on
	return nil
}

func (o only) check(text string) error {
	if b, err := strconv.ParseBool(text); err == nil && (o.want == "true" || o.want == "false") {
		text = strconv.FormatBool(b)
	}
	if text == o.want {
		return nil
	}
	return fmt.Errorf("it can only be %s: %s", o.want, o.why)
}

func parsePool(text string) (Pool, error) {
	var p Pool
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "base":
			p.Base = value
		case "size":
			n, err := strconv.Atoi(value)
			if err != nil {
				return p, fmt.Errorf("size %q is not a number", value)
			}
			p.Size = n
		default:
			return p, fmt.Errorf("unknown field %q: a pool is base=CIDR,size=N", key)
		}
	}
	return p, nil
}

// setJSON reads a value of the file into to, replacing what was there.
func setJSON(to any, raw json.RawMessage) error {
	switch to := to.(type) {
	case *bytesValue:
		var text string
		if json.Unmarshal(raw, &text) == nil {
			return setText(to, text)
		}
		return strict(raw, (*int64)(to))
	case *map[string]string:
		// Numbers and truth values are taken too: people write "max-file": 3.
		var values map[string]any
		if err := json.Unmarshal(raw, &values); err != nil {
			return errors.New("must be an object of strings")
		}
		*to = map[string]string{}
		for k, v := range values {
			switch v := v.(type) {
			case string:
				(*to)[k] = v
			case float64:
				(*to)[k] = strconv.FormatFloat(v, 'f', -1, 64)
			case bool:
				(*to)[k] = strconv.FormatBool(v)
			default:
				return fmt.Errorf("the value of %q must be a string", k)
			}
		}
		return nil
	case *map[string]container.Ulimit:
		var values map[string]struct {
			Name       string
			Soft, Hard int64
		}
		if err := strict(raw, &values); err != nil {
			return err
		}
		*to = map[string]container.Ulimit{}
		for name, v := range values {
			if v.Name == "" {
				v.Name = name
			}
			if _, err := (&units.Ulimit{Name: v.Name, Soft: v.Soft, Hard: v.Hard}).GetRlimit(); err != nil {
				return err
			}
			(*to)[v.Name] = container.Ulimit{Name: v.Name, Soft: v.Soft, Hard: v.Hard}
		}
		return nil
	case only:
		return to.check(strings.Trim(string(raw), `"`))
	case proxies:
		var p struct {
			HTTP  string `json:"http-proxy"`
			HTTPS string `json:"https-proxy"`
			No    string `json:"no-proxy"`
		}
		if err := strict(raw, &p); err != nil {
			return err
		}
		to.c.HTTPProxy, to.c.HTTPSProxy, to.c.NoProxy = p.HTTP, p.HTTPS, p.No
		return nil
	}
	return strict(raw, to)
}

// strict decodes a value that must have exactly the type of to.
func strict(raw json.RawMessage, to any) error {
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return fmt.Errorf("must be a %s, not a %s", wrong.Type, wrong.Value)
		}
		return err
	}
	return nil
}

// ulimits are the default resource limits in a stable order.
func (c *Config) ulimits() []container.Ulimit {
	var out []container.Ulimit
	for _, name := range slices.Sorted(maps.Keys(c.Ulimits)) {
		out = append(out, c.Ulimits[name])
	}
	return out
}
