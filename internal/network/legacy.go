package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Values of Options.Firewall.
const (
	FirewallAuto     = "auto" // nftables, or iptables where the kernel has none
	FirewallNFTables = "nftables"
	FirewallIPTables = "iptables"
)

// legacy brings policies into the kernel with iptables-legacy-restore. A change is one call for a version of IP, in which
// each table changes at once. Nothing tells when others change these tables, so we look: before each change, and now and
// then at their sizes, which needs no program.
type legacy struct {
	names xtNames

	mu      sync.Mutex
	applied map[family]string // what was wanted last
	prints  map[family]string // what the kernel made of it
	sizes   map[family]string
	ended   chan struct{}
}

// legacyTime is how long a program may take, which waits for others of its kind.
const legacyTime = time.Minute

// lookTime is how often the tables' sizes are looked at.
const lookTime = 5 * time.Second

func legacyProgram(f family, what string) string { return iptablesName(f, "-legacy-"+what) }

// openLegacy looks whether the kernel and the programs are there.
func openLegacy(table string) (*legacy, error) {
	l := &legacy{names: xtNamesOf(table), applied: map[family]string{}, prints: map[family]string{}, sizes: map[family]string{},
		ended: make(chan struct{})}
	if _, err := l.save(ip4); err != nil {
		return nil, err
	}
	return l, nil
}

// run executes a program on a thread that is in the host's namespace, wherever the caller's is.
func (l *legacy) run(f family, what, stdin string, args ...string) (out string, err error) {
	name := legacyProgram(f, what)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), legacyTime)
		defer cancel()
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "LC_ALL=C"}
		if path, lookErr := exec.LookPath(name); lookErr != nil {
			cmd.Path, cmd.Err = filepath.Join("/usr/sbin", name), nil
		} else {
			cmd.Path = path
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
		cmd.WaitDelay = time.Second
		err = cmd.Run()
		out = stdout.String()
		switch {
		case errors.Is(err, os.ErrNotExist):
			err = failf(errdefs.ErrNotImplemented, "the firewall of this kernel is programmed by %s, which is not installed: install iptables, or a kernel with nftables",
				name)
		case err != nil:
			said := strings.Join(strings.Fields(stderr.String()), " ")
			err = fmt.Errorf("%s: %w: %.500s", name, err, said)
		}
	}()
	<-done
	return out, err
}

func (l *legacy) save(f family) (xtSaved, error) {
	out, err := l.run(f, "save", "")
	return l.names.readSaved(out), err
}

// apply makes the kernel's rules those of the policy want returns. What is there already costs nothing.
func (l *legacy) apply(want func() policy) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := want()
	if err := p.xtCheck(); err != nil {
		return err
	}
	for _, f := range []family{ip4, ip6} {
		if f == ip6 && !p.has(ip6) {
			if l.applied[f] != "" {
				if err := l.clear(f); err != nil {
					return err
				}
			}
			continue
		}
		tables := compileXT(p, f)
		if text := xtRestore(tables, nil); text == l.applied[f] && l.sizes[f] == xtSizes(f) {
			continue
		}
		if err := l.set(f, tables); err != nil {
			return err
		}
	}
	return nil
}

// set is one change. Called with mu held.
func (l *legacy) set(f family, tables []xtTable) error {
	delete(l.applied, f)
	was, err := l.save(f)
	if err != nil {
		return err
	}
	text := xtRestore(l.names.besideDocker(tables, was.docker), was.jumps)
	if _, err := l.run(f, "restore", text, "--noflush", "--wait", "30"); err != nil {
		return fmt.Errorf("set the rules of iptables: %w", err)
	}
	l.sizes[f] = xtSizes(f) // before what is compared with it
	now, err := l.save(f)
	if err != nil {
		return err
	}
	l.applied[f], l.prints[f] = xtRestore(tables, nil), now.print
	return nil
}

// clear takes our rules of a version away. Called with mu held.
func (l *legacy) clear(f family) error {
	delete(l.applied, f)
	was, err := l.save(f)
	if err != nil {
		return err
	}
	if text := was.clear(); text != "" {
		if _, err := l.run(f, "restore", text, "--noflush", "--wait", "30"); err != nil {
			return fmt.Errorf("remove the rules of iptables: %w", err)
		}
	}
	return nil
}

// remove takes all our rules away.
func (l *legacy) remove() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.clear(ip4)
	if _, statErr := os.Stat("/proc/self/net/ip6_tables_names"); statErr == nil {
		err = errors.Join(err, l.clear(ip6))
	}
	return err
}

// written reports whether the kernel has our rules.
func (l *legacy) written() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.applied[ip4] != ""
}

// intact reports whether the kernel still has what was applied, where it was put. quick is content where the tables have
// the sizes they had.
func (l *legacy) intact(quick bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for f := range l.applied {
		size := xtSizes(f)
		if quick && size == l.sizes[f] {
			continue
		}
		now, err := l.save(f)
		if err != nil {
			continue // it will not be better for writing
		}
		if now.print != l.prints[f] || !now.first || !now.last {
			return false
		}
		l.sizes[f] = size
	}
	return true
}

// forget makes the next apply write everything again.
func (l *legacy) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.sizes)
}

// watch calls lost when our rules were changed by somebody else, until close.
func (l *legacy) watch(lost func()) {
	go func() {
		tick := time.NewTicker(lookTime)
		defer tick.Stop()
		for {
			select {
			case <-l.ended:
				return
			case <-tick.C:
				if !l.intact(true) {
					lost()
				}
			}
		}
	}()
}

func (l *legacy) close() { close(l.ended) }

// xtSizes are the sizes of the tables that we have rules in, "" where that cannot be told.
func xtSizes(f family) string {
	names, sockFamily, level := "/proc/self/net/ip_tables_names", unix.AF_INET, unix.IPPROTO_IP
	if f == ip6 {
		names, sockFamily, level = "/proc/self/net/ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6
	}
	if _, err := os.Stat(names); err != nil {
		return ""
	}
	fd, err := unix.Socket(sockFamily, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	const getInfo, infoLen = 64, 32 + 4 + 2*5*4 + 4 + 4 // struct ipt_getinfo
	var b strings.Builder
	for _, table := range []string{"raw", "nat", "filter"} {
		if table == "raw" && f == ip6 {
			continue
		}
		info := make([]byte, infoLen)
		copy(info, table)
		if err := getsockopt(fd, level, getInfo, info); err != nil {
			fmt.Fprintf(&b, "%s: %s\n", table, err)
			continue
		}
		fmt.Fprintf(&b, "%s: %x\n", table, info[32:])
	}
	return b.String()
}

// openRulesLegacy takes the place of what nftables does.
func (n *Networks) openRulesLegacy() error {
	if n.opts.RespectFirewall {
		return failf(errdefs.ErrInvalidArgument, "publish-policy respect-host-firewall needs nftables: with iptables the host's input rules cannot be asked "+
			"about what is not for the host (firewall-backend %s)", n.opts.Firewall)
	}
	var err error
	if n.legacy, err = openLegacy(n.tableName()); err != nil {
		return err
	}
	n.warn("the firewall is iptables' (no nftables): there are no egress policies, and containers of one network can pretend to be each other")
	if err := os.WriteFile(n.legacyMark(), nil, 0o600); err != nil {
		return fmt.Errorf("note that the rules are iptables': %w", err)
	}
	if probeNFTables() == nil { // a daemon before this one may have used it
		w, err := openFirewall()
		if err != nil {
			return err
		}
		defer w.Close()
		return w.remove(n.tableName(), ip4, ip6, onBridges, inet)
	}
	return nil
}

// legacyMark is there where rules may be iptables'.
func (n *Networks) legacyMark() string { return filepath.Join(n.opts.RunDir, "iptables") }

// leaveLegacy removes the rules of a daemon before this one that used iptables.
func (n *Networks) leaveLegacy() {
	if _, err := os.Stat(n.legacyMark()); err != nil {
		return
	}
	l, err := openLegacy(n.tableName())
	if err == nil {
		err = l.remove()
	}
	if err == nil {
		err = os.Remove(n.legacyMark())
	}
	if err != nil {
		n.warn("rules of iptables from before nftables was used are left behind: %s", err)
	}
}

// reassertLegacy makes our rules again when somebody else took them away or put himself before them.
func (n *Networks) reassertLegacy() {
	if !n.begin() {
		return
	}
	defer n.work.Done()
	n.log.Warn("the firewall rules were changed by somebody else and are made again")
	n.legacy.forget()
	if err := n.applyRules(); err != nil {
		n.log.Error("make the firewall rules again", "error", err)
	}
}

// filters reports whether there are rules of ours at all.
func (n *Networks) filters() bool { return n.wall != nil || n.legacy != nil }

// Firewall is what the rules are made with: FirewallNFTables, FirewallIPTables, or "none".
func (n *Networks) Firewall() string {
	switch {
	case n.wall != nil:
		return FirewallNFTables
	case n.legacy != nil:
		return FirewallIPTables
	}
	return "none"
}

// noRules says why something that needs nftables cannot be.
func (n *Networks) noRules(what string) error {
	switch {
	case n.legacy != nil && n.opts.Firewall == FirewallAuto:
		return failf(errdefs.ErrNotImplemented, "%s needs nftables, and the rules here are iptables' because the kernel has none", what)
	case n.legacy != nil:
		return failf(errdefs.ErrNotImplemented, "%s needs nftables, and the rules here are iptables' (firewall-backend %s)", what, n.opts.Firewall)
	}
	return failf(errdefs.ErrInvalidArgument, "%s needs nftables rules, which are turned off (--iptables=false)", what)
}

// legacyRules are the rules that translate a port of the host, as text.
func (n *Networks) legacyRules(host netip.AddrPort, proto string) (rules []string) {
	if n.legacy == nil {
		return nil
	}
	p := n.policy()
	p.ports = slices.DeleteFunc(p.ports, func(q policyPort) bool { return q.host != host || q.proto.String() != proto })
	for _, r := range p.xtRanges(familyOf(host.Addr())) {
		rules = append(rules, iptablesName(familyOf(host.Addr()), "-legacy")+" -t nat -A "+n.legacy.names.chain("DNAT")+" "+r)
	}
	return rules
}
