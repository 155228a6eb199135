package network

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// besides makes our links pass a foreign FORWARD chain of iptables whose policy is to drop, and returns what stands in
// the way that we do not touch. See the package comment.
func (w *firewall) besides(table string, links map[family][]string) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	chains, err := w.conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list the chains of nftables: %w", err)
	}
	var warnings []string
	for _, c := range chains {
		if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || strings.HasPrefix(c.Table.Name, "berth-") {
			continue
		}
		f, drops := family(c.Table.Family), c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		switch {
		case (f == ip4 || f == ip6) && c.Table.Name == "filter" && c.Name == "FORWARD":
			want := links[f]
			if !drops {
				want = nil
			}
			if err := w.passThrough(c, table, want); err != nil {
				warnings = append(warnings, fmt.Sprintf("the policy of %s's FORWARD chain is to drop and Berth cannot change that for "+
					"its containers: %s", iptablesName(f, ""), err))
			}
		case c.Table.Family == nftables.TableFamilyINet && c.Table.Name == "firewalld":
			left, err := w.withoutZone(c.Table, chains, slices.Concat(links[ip4], links[ip6]))
			if err != nil {
				return nil, err
			}
			if len(left) > 0 {
				warnings = append(warnings, "firewalld rejects what containers send unless their links are in a zone that allows it: "+
					"firewall-cmd --permanent --zone=trusted"+each(left, " --add-interface=%s")+" && firewall-cmd --reload")
			}
		case drops && (f == ip4 || f == ip6 || c.Table.Family == nftables.TableFamilyINet) && len(links[ip4])+len(links[ip6]) > 0:
			warnings = append(warnings, fmt.Sprintf("the chain %q of table %q drops what containers send and receive; "+
				"allow the links %s there",
				c.Name, c.Table.Name, strings.Join(slices.Concat(links[ip4], links[ip6]), ", ")))
		}
	}
	for _, f := range []family{ip4, ip6} {
		if len(links[f]) > 0 && legacyDrops(f) {
			warnings = append(warnings, fmt.Sprintf("the policy of iptables-legacy's FORWARD chain is to drop; "+
				"allow Berth's links with:%s",
				each(links[f], " "+iptablesName(f, "-legacy")+" -A FORWARD -i %[1]s -j ACCEPT; "+
					iptablesName(f, "-legacy")+" -A FORWARD -o %[1]s -j ACCEPT;")))
		}
	}
	return warnings, nil
}

// withoutZone are the links that firewalld has in no zone, and so in its default zone. Its chains filter_FORWARD_ZONES, or
// filter_FORWARD_IN_ZONES of before 1.0, name the others, a whole family of links by the beginning of its names.
func (w *firewall) withoutZone(t *nftables.Table, chains []*nftables.Chain, links []string) (left []string, err error) {
	var named []string
	for _, c := range chains {
		if c.Table.Family != t.Family || c.Table.Name != t.Name || !strings.HasPrefix(c.Name, "filter_FORWARD_") || !strings.Contains(c.Name, "ZONES") {
			continue
		}
		rules, err := w.conn.GetRules(t, c)
		if err != nil {
			return nil, fmt.Errorf("list the rules of firewalld's zones: %w", err)
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if cmp, ok := e.(*expr.Cmp); ok {
					named = append(named, string(cmp.Data))
				}
			}
		}
	}
	slices.Sort(links)
	return slices.DeleteFunc(slices.Compact(links), func(l string) bool {
		return slices.ContainsFunc(named, func(name string) bool {
			exact, _, ends := strings.Cut(name, "\x00")
			return ends && exact == l || !ends && name != "" && strings.HasPrefix(l, name)
		})
	}), nil
}

func iptablesName(f family, suffix string) string {
	if f == ip6 {
		return "ip6tables" + suffix
	}
	return "iptables" + suffix
}

func each(links []string, format string) string {
	var b strings.Builder
	for _, l := range links {
		fmt.Fprintf(&b, format, l)
	}
	return b.String()
}

// passThrough makes the last rules of the chain accept the links, and removes ours for others. The rules carry our
// table's name, so that two daemons do not take away each other's.
func (w *firewall) passThrough(c *nftables.Chain, owner string, links []string) error {
	rules, err := w.conn.GetRules(c.Table, c)
	if err != nil {
		return fmt.Errorf("list its rules: %w", err)
	}
	mark := append([]byte("berth\x00"), owner...)
	var want [][]expr.Any
	for _, l := range links {
		for _, dir := range []direction{in, out} {
			want = append(want, passRule(dir, l))
		}
	}
	var ours []*nftables.Rule
	last := 0
	for i, r := range rules {
		if bytes.Equal(r.UserData, mark) {
			ours = append(ours, r)
			last = i
		}
	}
	if len(ours) == len(want) && (len(ours) == 0 || last == len(rules)-1) {
		same := true
		for i, r := range ours {
			same = same && linkOf(r.Exprs) == linkOf(want[i])
		}
		if same {
			return nil
		}
	}
	for _, r := range ours {
		if err := w.conn.DelRule(r); err != nil {
			return err
		}
	}
	for _, es := range want {
		w.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: es, UserData: mark})
	}
	return w.conn.Flush()
}

// dockerBridges are the links of Docker's networks. What leaves by them its chain DOCKER accepts where a port is published, and until
// Docker 28 nothing but the policy drops the rest; and Docker sets that only where nobody forwarded before it came.
func (w *firewall) dockerBridges() map[family][]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := map[family][]string{}
	for _, f := range []family{ip4, ip6} {
		t := &nftables.Table{Family: nftables.TableFamily(f), Name: "filter"}
		for _, chain := range []string{"FORWARD", "DOCKER-BRIDGE"} {
			rules, err := w.conn.GetRules(t, &nftables.Chain{Table: t, Name: chain})
			if err == nil {
				found[f] = append(found[f], toDocker(rules)...)
			}
		}
		if len(found[f]) > 0 {
			slices.Sort(found[f])
			found[f] = slices.Compact(found[f])
		}
	}
	return found
}

// toDocker are the links by which packets leave that these rules send to the chain DOCKER.
func toDocker(rules []*nftables.Rule) (links []string) {
	for _, r := range rules {
		link, toDocker := "", false
		for i, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Cmp:
				if m, ok := r.Exprs[max(i-1, 0)].(*expr.Meta); ok && m.Key == expr.MetaKeyOIFNAME && e.Op == expr.CmpOpEq {
					link, _, _ = strings.Cut(string(e.Data), "\x00")
				}
			case *expr.Verdict:
				toDocker = e.Kind == expr.VerdictJump && e.Chain == "DOCKER"
			}
		}
		if toDocker && link != "" {
			links = append(links, link)
		}
	}
	return links
}

// passRule is a rule as iptables itself writes it, so that iptables goes on to understand its chain.
func passRule(dir direction, link string) []expr.Any {
	_, key := dir.key()
	return []expr.Any{
		&expr.Meta{Key: key, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: append([]byte(link), 0)},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// linkOf says what a passRule is about.
func linkOf(es []expr.Any) string {
	var text string
	for _, e := range es {
		switch e := e.(type) {
		case *expr.Meta:
			text += fmt.Sprint(e.Key)
		case *expr.Cmp:
			text += string(bytes.TrimRight(e.Data, "\x00"))
		}
	}
	return text
}

// intact reports whether the kernel still has everything that was applied: chains, their rules, and the elements of sets.
// That somebody put rules of his own among ours is his business.
func (w *firewall) intact() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.applied == nil {
		return false
	}
	kernel, err := w.elementsOf(w.applied.document)
	if err != nil {
		return false
	}
	for i, t := range w.applied.tables {
		have, there := kernel[t.family]
		if !there {
			return false
		}
		for j, s := range t.sets {
			size := keySize(s.key)
			for raw := range w.applied.sets[place{i, j}] {
				if !have[s.name][hex.EncodeToString([]byte(raw[:size]))] {
					return false
				}
			}
		}
		kt := &nftables.Table{Family: nftables.TableFamily(t.family), Name: t.name}
		for _, c := range t.chains {
			rules, err := w.conn.GetRules(kt, &nftables.Chain{Table: kt, Name: c.name})
			if err != nil || len(rules) < len(c.rules) {
				return false
			}
		}
	}
	return true
}

// legacyDrops reports whether iptables-legacy's FORWARD chain drops by policy. It looks only where the table exists:
// to ask for it would make it.
func legacyDrops(f family) bool {
	names, sockFamily, level := "/proc/self/net/ip_tables_names", unix.AF_INET, unix.IPPROTO_IP
	if f == ip6 {
		names, sockFamily, level = "/proc/self/net/ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6
	}
	b, err := os.ReadFile(names)
	if err != nil || !slices.Contains(strings.Fields(string(b)), "filter") {
		return false
	}
	fd, err := unix.Socket(sockFamily, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	// struct ipt_getinfo: name, valid hooks, entry and policy offsets of five hooks, number and size of the entries.
	const (
		getInfo, getEntries = 64, 65
		nameLen             = 32
		infoLen             = nameLen + 4 + 2*5*4 + 4 + 4
		policyOf            = nameLen + 4 + 5*4 + unix.NF_INET_FORWARD*4
	)
	info := make([]byte, infoLen)
	copy(info, "filter")
	if getsockopt(fd, level, getInfo, info) != nil {
		return false
	}
	size := binary.NativeEndian.Uint32(info[infoLen-4:])
	policy := binary.NativeEndian.Uint32(info[policyOf:])
	entries := make([]byte, (nameLen+4+7)&^7+int(size)) // struct ipt_get_entries, whose table is aligned
	copy(entries, "filter")
	binary.NativeEndian.PutUint32(entries[nameLen:], size)
	if getsockopt(fd, level, getEntries, entries) != nil {
		return false
	}
	// The entry's target lies target_offset bytes in; behind its header of 32 bytes is the verdict, -1 for drop.
	const offsetAt4, offsetAt6, targetHeader = 84 + 4, 136 + 4, 32
	at := offsetAt4
	if f == ip6 {
		at = offsetAt6
	}
	table := entries[(nameLen+4+7)&^7:]
	if int(policy)+at+2 > len(table) {
		return false
	}
	verdict := int(policy) + int(binary.NativeEndian.Uint16(table[int(policy)+at:])) + targetHeader
	return verdict+4 <= len(table) && int32(binary.NativeEndian.Uint32(table[verdict:])) == -1
}

// getsockopt is the one that both reads and writes its buffer.
func getsockopt(fd, level, name int, b []byte) error {
	size := uint32(len(b))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		return errno
	}
	return nil
}

// watchRules calls changed after every transaction of nftables that is not of these sockets, until the file is closed; touched tells
// whether it was about the table of this name.
func watchRules(table string, own []uint32, changed func(touched bool)) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a socket for changes of the rules: %w", err)
	}
	group := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}
	if err := unix.Bind(fd, group); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("ask for changes of the rules: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nftables changes")
	go func() {
		buf := make([]byte, 64<<10)
		name := append([]byte(table), 0) // as it stands in attributes
		touched := false
		for {
			n, err := f.Read(buf)
			if errors.Is(err, unix.ENOBUFS) { // more than the socket could hold; one of them may have been somebody's
				changed(true)
				continue
			}
			if err != nil {
				return
			}
			touched = touched || bytes.Contains(buf[:n], name)
			ended, foreign := transactionEnd(buf[:n], own)
			if foreign {
				changed(touched)
			}
			if ended {
				touched = false
			}
		}
	}()
	return f, nil
}

// transactionEnd looks for the message that ends a transaction, and says whether one was made by somebody else: the message is addressed
// from the socket that made it. (It also has the number of the thread, which tells less: a program's threads come and go.)
func transactionEnd(b []byte, own []uint32) (ended, foreign bool) {
	const genMessage = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[4:]) == genMessage {
			ended = true
			foreign = foreign || !slices.Contains(own, binary.NativeEndian.Uint32(b[12:]))
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return ended, foreign
}
