// Package network owns the networks of one daemon: bridges, addresses, the namespaces of containers, published ports
// and the firewall rules that go with them. It owns `networks/` under the data root, one bridge per network, the
// nftables tables named berth-<bridge>, and nothing else; it runs no program, neither ip nor iptables nor a proxy per port, but for the
// restorer of iptables on a kernel without nftables, and the plugins of CNI configurations.
//
// # The life of an endpoint
//
//	Attach   address and name reserved ─▶ namespace, from the pool or made ─▶ ports reserved ─▶ rules ─▶ caller
//	         (the caller owns the namespace's descriptor; the container's first process starts inside)
//	Connect, Disconnect   one more interface in a namespace that lives, or one fewer; routes, ports and names follow
//	Detach   rules of its ports gone ─▶ sockets closed ─▶ address free
//	kernel   last process and descriptor gone ─▶ namespace, inner link, and with it our end of the pair vanish
//
// Nobody deletes a link that leads to a container: that costs some 10 to 20 ms under the kernel's rtnl lock, and the
// kernel does it by itself and for many namespaces at once when they are gone. While it does so a request to rtnetlink
// may wait for as long; measured on the development machine (2 cores, Linux 6.18): of 60 namespaces made while 60 died
// one waited 11 ms and the others 0.7 ms, and right after 100 died at once one of 30 waited 35 ms. The pool is the way
// around: who takes from it does not speak to rtnetlink.
//
// # The namespace
//
// A container on the default network gets a namespace that is complete already: loopback up, eth0 with address and
// default route, its other end on the bridge. The pool of those is filled in the background, grows with the demand to
// 16, and shrinks to a few when there is none. Every other container gets a namespace made or completed at once: one
// rtnetlink request makes the pair of links across both namespaces, a second one brings the inside up. The hardware
// address is made from the IP address, so that nobody's neighbour cache is ever wrong.
//
// In the namespace IPv6 is off on every interface whose network has none (CVE-2024-32473) and on for the loopback; router
// advertisements are ignored inside (CVE-2020-10749) and on the bridge outside (CVE-2020-13401); any program may listen
// on low ports and send pings, as with Docker.
//
// # Macvlan and ipvlan
//
// On these networks an interface of a container stands beside a link of the host and is a neighbour of whatever that is
// connected to; lan.go says how. The host's rules have no part in it, and ports are not published. Here Detach does delete
// the links, from inside the namespace, which it keeps for that: as long as one lingers nobody else can have its address.
//
// # CNI configurations
//
// On a network of the driver cni the plugins of a configuration of the host's make the interface and say which address it has;
// cni.go says how that is checked, and package cni how they are run. Namespace, names and the reservation of host ports are
// ours; our rules have no part in it.
//
// # Addresses
//
// Addresses go round the subnet, so that one just freed rests. Who has which is not saved: the engine's records say so,
// and Retain hears it after a restart; where a record is missing it looks into the namespace. Starting a container
// writes nothing to disk here.
//
// The link on our side has a name made of the endpoint's ID. So a new daemon sees which links no record knows, because the
// last one was killed in the middle of a Connect, and deletes them; and which records stand for links that are gone.
//
// # What others do to links
//
// rtnetlink tells when a link is deleted, renamed, set down or loses an address. A bridge of ours is then made again what its network
// says, with its hardware address, its ports, and all that hangs on it; a network whose link is not ours to make says what it lacks until
// that is back. links.go has the cases. Trace says the rest, such as a container's own link that somebody took.
//
// # Rules
//
// compile turns all networks and ports into one document per IP version, a pure function whose results stand in
// docs/network/*.nft.txt. The number of rules is constant; networks and ports are elements of sets and maps:
//
//	links, same, internal    names of bridges: all of them, those whose containers may talk, those that stay inside
//	subnets, hidden          blocks of addresses: all of them, those hidden behind the host's address on the way out
//	published                protocol . port            → container's address . port, on every address of the host
//	published_at             address . protocol . port  → the same, on that address only
//
// Packets of known connections pass; others from or to our links go through the chain "ours": same network, internal, published, and
// then nothing else reaches a container. What neither comes from nor goes to our links is left to other rules, with one
// exception: where forwarding was off and we turned it on, the hardware links there were keep not forwarding to each
// other (Options.IPForwardNoDrop lifts that).
//
// A change is one transaction, and only of the elements that differ. One of published ports looks at that container's
// ports alone, however many others have; everything is compared where networks change, and written where somebody else
// flushed it. Every published port is also bound by a socket, so that no program of the host takes it and one of the
// host's own is not hidden; the socket drops what reaches it. Translation happens in prerouting for others and in output
// for the host itself. For 127.0.0.1 the bridge must route the loopback block; the chain "guard" keeps containers from
// reaching the host's loopback that way, and prerouting never translates a loopback address, so a neighbour cannot reach
// what is published there. For ::1 a local route on the bridge does the same, and the kernel itself keeps ::1 off the
// wire.
//
// What comes by IPv6 for a container that has IPv4 only no rule can translate: relays.go says who carries that.
//
// # The guard
//
// A container may send any frame it likes (CAP_NET_RAW, which Docker gives to all). One table of the family bridge sees
// the frames of guarded links before the bridge learns from them, and lets pass what has the link's own hardware address
// and one of its own IP addresses as the sender's; no router advertisements and redirects, no neighbour advertisements for
// others, and nothing but IPv4, ARP and IPv6. Its rules are constant; a link is one element of each of its sets, written
// before the link is made, in a transaction that costs the same for the first container and the thousandth; the pool's
// links have theirs already. Containers with NET_ADMIN, which may be routers or have addresses that come and go, are not
// guarded, nor are networks with the option berth.bridge.allow_spoofing=true. docs/network/guard.nft.txt shows the table.
//
// # Egress policies
//
// A policy says which connections the containers of a network, or one container, may open. One table of the family inet
// has the rules, while there is any policy; they are constant, and what policies mean are elements of sets with ranges
// that do not overlap. A domain's addresses are put there as our name server answers, before the container hears them
// (learner): by the daemon, and by the keeper while there is none. Who is bound by a policy of its own is guarded in any
// case, and asks our name server on the default network, too. A policy is in the kernel before the container's first
// process starts, and goes before its addresses are free. docs/network/egress.md has the grammar.
//
// # Names
//
// A container on a network of the users' asks 127.0.0.11, where package dns answers with what its table lets the container
// know: names, short IDs and aliases on its own networks. The sockets are opened inside the container's namespace on any
// free port, and four rules there rewrite port 53 to it; port 53 stays free for a name server of the container's own, and
// no connection is tracked for it.
//
// Copies of these sockets, of those of published ports, and of the table are with the keeper, a process that takes over
// when the daemon is gone, and gives back to the next one; keeper.go draws their dialogue.
//
// # Beside other firewalls
//
// In nftables every base chain must accept a packet; to accept it in a table of our own does not undo a drop in another.
// Docker, ufw and others set the policy of iptables' FORWARD chain to drop. Where that chain lives in nftables (all
// current distributions) we append to its end one pair of accepting rules per bridge: they overrule the policy and no
// rule of the administrator's or of Docker's, all of which come first. They are looked after when rules change and when
// somebody else changes nftables, and go when the daemon closes with no container left. Where the chain is of
// iptables-legacy, or another table of somebody's drops (firewalld's zones), we change nothing, and Warnings says which
// command helps.
//
// Docker's networks (the links that iptables sends to its chain DOCKER) are apart from ours as ours are from each other: the set
// "docker" has them. What Docker publishes is reached.
//
// Where the kernel has no nftables the same policy is rendered for iptables and loaded by iptables-legacy-restore: xtables.go
// draws the chains, docs/network/iptables has the texts. What needs nftables is refused then.
//
// Published ports are open to all, as Docker's are, or (Options.RespectFirewall) to whom the host's input rules admit;
// gate.go draws how those are asked.
package network
