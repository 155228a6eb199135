// Package registry is the client side of the distribution protocol: it finds what a name means at the moment and reads
// blobs, through mirrors, proxies and private certificates. Hosts and tokens are containerd's, the requests are ours.
//
// # Where a name leads
//
// First, Podman's registries.conf is asked (see conf.go): the table with the longest prefix of a name may block it, put
// another location in the place of the prefix, and name mirrors. Then, for the host of each name that came of it, the
// first that exists of
//
//	<dir>/<host>[:<port>]/    or <host>_<port>_/, or _default/
//
// with <dir> being /etc/berth/certs.d and then /etc/docker/certs.d, says by a hosts.toml (containerd's format) which
// hosts to ask in which order, or by *.crt, *.cert and *.key (Docker's layout) what to trust. Without a hosts.toml the
// registry itself is asked, over HTTPS, after the mirrors that the options have for it. A registry on a loopback address, or
// one that was declared insecure, is asked without verification and, if it does not speak TLS, in clear text.
//
// # What is tried again
//
// A request that is refused for a reason that may pass (429, 5xx, a connection that breaks off, a body that is silent) is
// sent again after a pause, which doubles, or is as long as the registry asks for. After a handful of tries without headway,
// or when the registry asks for more than half a minute, the error is returned. fetch.go draws the way of a body.
//
// # Who gets the credentials
//
// The registry that the name says, and nobody else: neither a mirror, nor another location that the configuration has for
// the name, nor an address that a manifest names, nor where an answer redirects or sends an upload to, be it another port of the same host.
//
// # What is pushed
//
// Goes to the registry itself. The bytes are those that came in. push.go draws the way of a blob.
//
// # What is refused
//
// Manifests of more than MaxManifest bytes, digests and sizes that do not hold, addresses outside of the registry for
// layers (CVE-2020-15157), and credentials in clear text to a host that is neither local nor declared insecure.
//
// Errors wrap errdefs kinds and have Docker's wording where its users match on it.
package registry
