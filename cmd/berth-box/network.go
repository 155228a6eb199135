package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hostAddresses is hostname -i: every address that is not loopback.
func hostAddresses(c *call) int {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return c.report(err)
	}
	var list []string
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			list = append(list, n.IP.String())
		}
	}
	fmt.Fprintln(c.out, strings.Join(list, " "))
	return 0
}

// ip shows addresses, links and routes in iproute2's form; it changes nothing.
func ip(c *call) int {
	args, family := c.args, 0
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-4":
			family = 4
		case "-6":
			family = 6
		case "-o", "-br", "-brief":
		default:
			return c.usage("option %q is not supported", args[0])
		}
		args = args[1:]
	}
	object := "addr"
	if len(args) > 0 {
		object, args = args[0], args[1:]
	}
	var device string
	for i, a := range args {
		switch {
		case a == "show" || a == "list" || a == "ls" || a == "dev":
		case i == len(args)-1:
			device = a
		default:
			return c.usage("only showing is supported, not %q", a)
		}
	}
	switch {
	case object != "" && strings.HasPrefix("address", object):
		return showLinks(c, device, family, true)
	case object != "" && strings.HasPrefix("link", object):
		return showLinks(c, device, family, false)
	case object != "" && strings.HasPrefix("route", object):
		return showRoutes(c, family)
	}
	return c.usage("object %q is unknown; addr, link and route are known", object)
}

func showLinks(c *call, device string, family int, addresses bool) int {
	ifaces, err := net.Interfaces()
	if err != nil {
		return c.report(err)
	}
	found := device == ""
	for _, i := range ifaces {
		if device != "" && i.Name != device {
			continue
		}
		found = true
		var flags []string
		state := "DOWN"
		for _, f := range []struct {
			bit  net.Flags
			name string
		}{{net.FlagLoopback, "LOOPBACK"}, {net.FlagBroadcast, "BROADCAST"}, {net.FlagMulticast, "MULTICAST"},
			{net.FlagPointToPoint, "POINTOPOINT"}, {net.FlagUp, "UP"}, {net.FlagRunning, "LOWER_UP"}} {
			if i.Flags&f.bit != 0 {
				flags = append(flags, f.name)
			}
		}
		if i.Flags&net.FlagRunning != 0 {
			state = "UP"
		}
		kind, mac := "ether", i.HardwareAddr.String()
		if i.Flags&net.FlagLoopback != 0 {
			kind, mac, state = "loopback", "00:00:00:00:00:00", "UNKNOWN"
		}
		name := i.Name
		if peer := readFirst("/sys/class/net/" + i.Name + "/iflink"); peer != "" && peer != strconv.Itoa(i.Index) {
			name += "@if" + peer
		}
		fmt.Fprintf(c.out, "%d: %s: <%s> mtu %d state %s\n", i.Index, name, strings.Join(flags, ","), i.MTU, state)
		fmt.Fprintf(c.out, "    link/%s %s\n", kind, mac)
		if !addresses {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return c.report(err)
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			word, scope := "inet6", "global"
			if n.IP.To4() != nil {
				word = "inet"
			}
			if family == 4 && word != "inet" || family == 6 && word != "inet6" {
				continue
			}
			switch {
			case n.IP.IsLoopback():
				scope = "host"
			case n.IP.IsLinkLocalUnicast():
				scope = "link"
			}
			fmt.Fprintf(c.out, "    %s %s scope %s %s\n", word, n, scope, i.Name)
		}
	}
	if !found {
		return c.fail("device %q does not exist", device)
	}
	return 0
}

func readFirst(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// showRoutes asks the kernel for its main routing table (rtnetlink, RTM_GETROUTE).
func showRoutes(c *call, family int) int {
	af := unix.AF_INET
	if family == 6 {
		af = unix.AF_INET6
	}
	data, err := syscall.NetlinkRIB(unix.RTM_GETROUTE, af)
	if err != nil {
		return c.report(err)
	}
	msgs, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return c.report(err)
	}
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg || m.Data[4] != unix.RT_TABLE_MAIN {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return c.report(err)
		}
		line := "default"
		var gw, dev, src string
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.RTA_DST:
				if addr, ok := netip.AddrFromSlice(a.Value); ok {
					line = netip.PrefixFrom(addr, int(m.Data[1])).String()
				}
			case unix.RTA_GATEWAY:
				if addr, ok := netip.AddrFromSlice(a.Value); ok {
					gw = " via " + addr.String()
				}
			case unix.RTA_PREFSRC:
				if addr, ok := netip.AddrFromSlice(a.Value); ok {
					src = " src " + addr.String()
				}
			case unix.RTA_OIF:
				if i, err := net.InterfaceByIndex(int(binary.NativeEndian.Uint32(a.Value))); err == nil {
					dev = " dev " + i.Name
				}
			}
		}
		scope := ""
		if m.Data[6] == unix.RT_SCOPE_LINK {
			scope = " scope link"
		}
		fmt.Fprintln(c.out, line+gw+dev+scope+src)
	}
	return 0
}

func nslookup(c *call) int {
	if len(c.args) < 1 || len(c.args) > 2 {
		return c.usage("usage: nslookup NAME [SERVER]")
	}
	r := &net.Resolver{PreferGo: true}
	if len(c.args) == 2 {
		server := c.args[1]
		if _, _, err := net.SplitHostPort(server); err != nil {
			server = net.JoinHostPort(server, "53")
		}
		r.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if addr, err := netip.ParseAddr(c.args[0]); err == nil {
		list, err := r.LookupAddr(ctx, addr.String())
		if err != nil {
			return c.fail("%v", err)
		}
		for _, n := range list {
			fmt.Fprintf(c.out, "%s\tname = %s\n", addr, n)
		}
		return 0
	}
	list, err := r.LookupNetIP(ctx, "ip", c.args[0])
	if err != nil {
		return c.fail("%v", err)
	}
	fmt.Fprintf(c.out, "Name:\t%s\n", c.args[0])
	for _, a := range list {
		fmt.Fprintf(c.out, "Address: %s\n", a.Unmap())
	}
	return 0
}

// ping sends ICMP echoes through the kernel's unprivileged ICMP socket or, where that is closed, a raw one.
func ping(c *call) int {
	o, err := getopt(c.args, "c:W:i:q46", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) != 1 {
		return c.usage("usage: ping [-c COUNT] [-W SECONDS] [-i SECONDS] HOST")
	}
	count := 1 << 30
	if o.has('c') {
		if count = number(o.last('c', "")); count < 1 {
			return c.usage("invalid count %q", o.last('c', ""))
		}
	}
	wait, err := seconds(o.last('W', "5"))
	if err != nil {
		return c.usage("invalid time %q", o.last('W', ""))
	}
	interval, err := seconds(o.last('i', "1"))
	if err != nil {
		return c.usage("invalid time %q", o.last('i', ""))
	}
	network := "ip"
	if o.has('4') {
		network = "ip4"
	} else if o.has('6') {
		network = "ip6"
	}
	dst, err := net.ResolveIPAddr(network, o.rest[0])
	if err != nil {
		return c.fail("%s: %v", o.rest[0], err)
	}
	p, err := newPinger(dst.IP)
	if err != nil {
		return c.fail("%v", err)
	}
	defer unix.Close(p.fd)
	fmt.Fprintf(c.out, "PING %s (%s): 56 data bytes\n", o.rest[0], dst.IP)
	received, sent := 0, 0
	for ; sent < count; sent++ {
		if sent > 0 {
			time.Sleep(interval)
		}
		rtt, err := p.echo(uint16(sent), wait)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				c.fail("%v", err)
			}
		} else {
			received++
			if !o.has('q') {
				fmt.Fprintf(c.out, "64 bytes from %s: seq=%d time=%.3f ms\n", dst.IP, sent, float64(rtt.Microseconds())/1000)
			}
		}
		c.out.Flush()
	}
	fmt.Fprintf(c.out, "\n--- %s ping statistics ---\n%d packets transmitted, %d packets received, %d%% packet loss\n",
		o.rest[0], sent, received, (sent-received)*100/sent)
	if received == 0 {
		return 1
	}
	return 0
}

type pinger struct {
	fd  int
	to  unix.Sockaddr
	v6  bool
	raw bool
	id  uint16
}

func newPinger(addr net.IP) (*pinger, error) {
	p := &pinger{id: uint16(os.Getpid())}
	domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if v4 := addr.To4(); v4 != nil {
		p.to = &unix.SockaddrInet4{Addr: [4]byte(v4)}
	} else {
		p.v6 = true
		domain, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		p.to = &unix.SockaddrInet6{Addr: [16]byte(addr.To16())}
	}
	var err error
	if p.fd, err = unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, proto); err == nil {
		return p, nil
	}
	p.raw = true
	p.fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, fmt.Errorf("opening an ICMP socket: %w", err)
	}
	return p, nil
}

// echo sends one request and waits for its answer.
func (p *pinger) echo(seq uint16, wait time.Duration) (time.Duration, error) {
	const request4, reply4, request6, reply6 = 8, 0, 128, 129
	msg := make([]byte, 64)
	want := byte(reply4)
	msg[0] = request4
	if p.v6 {
		msg[0], want = request6, reply6
	}
	binary.BigEndian.PutUint16(msg[4:], p.id)
	binary.BigEndian.PutUint16(msg[6:], seq)
	if !p.v6 { // ICMPv6's checksum covers a pseudo header: the kernel fills it in
		var sum uint32
		for i := 0; i < len(msg); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(msg[i:]))
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(msg[2:], ^uint16(sum))
	}
	start := time.Now()
	if err := unix.Sendto(p.fd, msg, 0, p.to); err != nil {
		return 0, fmt.Errorf("sendto: %w", err)
	}
	buf := make([]byte, 1500)
	for {
		left := wait - time.Since(start)
		if left <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		tv := unix.NsecToTimeval(int64(max(left, time.Microsecond)))
		if err := unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return 0, err
		}
		n, _, err := unix.Recvfrom(p.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("recvfrom: %w", err)
		}
		reply := buf[:n]
		if p.raw && !p.v6 && n > 20 { // a raw IPv4 socket delivers the IP header too
			reply = reply[int(reply[0]&15)*4:]
		}
		if len(reply) >= 8 && reply[0] == want && binary.BigEndian.Uint16(reply[6:]) == seq &&
			(!p.raw || binary.BigEndian.Uint16(reply[4:]) == p.id) {
			return time.Since(start), nil
		}
	}
}

// nc connects (or with -l listens once) and copies both ways.
func nc(c *call) int {
	o, err := getopt(c.args, "lup:w:zvnUq:k", nil)
	if err != nil {
		return c.usage("%v", err)
	}
	network := "tcp"
	switch {
	case o.has('U'):
		network = "unix"
	case o.has('u'):
		network = "udp"
	}
	wait, err := seconds(o.last('w', "0"))
	if err != nil {
		return c.usage("invalid time %q", o.last('w', ""))
	}
	if o.has('l') {
		return ncListen(c, o, network)
	}
	var addr string
	switch {
	case network == "unix" && len(o.rest) == 1:
		addr = o.rest[0]
	case len(o.rest) == 2:
		addr = net.JoinHostPort(o.rest[0], o.rest[1])
	default:
		return c.usage("usage: nc [-uzv] [-w SECONDS] HOST PORT; nc -l [-p] PORT; nc -U SOCKET")
	}
	conn, err := net.DialTimeout(network, addr, wait)
	if err != nil {
		return c.fail("%v", err)
	}
	defer conn.Close()
	if o.has('v') {
		fmt.Fprintf(c.err, "connected to %s\n", addr)
	}
	if o.has('z') {
		return 0
	}
	if wait > 0 {
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return c.report(err)
		}
	}
	return c.relay(conn)
}

func ncListen(c *call, o *options, network string) int {
	port := o.last('p', "")
	if port == "" && len(o.rest) > 0 {
		port = o.rest[len(o.rest)-1]
	}
	if network == "udp" {
		return c.usage("-l listens on TCP or, with -U, on a Unix socket")
	}
	addr := ":" + port
	if network == "unix" {
		addr = port
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return c.fail("%v", err)
	}
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return c.fail("%v", err)
		}
		if !o.has('k') {
			l.Close()
		}
		code := c.relay(conn)
		conn.Close()
		if !o.has('k') {
			return code
		}
	}
}

// relay copies standard input to the connection and the connection to standard output, until the peer closes. What
// was still to be sent then has a moment to go out: `echo x | nc -l` must answer a peer that only listens.
func (c *call) relay(conn net.Conn) int {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, err := io.Copy(conn, c.in)
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite() // the peer may have gone
		}
	}()
	_, err := io.Copy(flushing{c.out}, conn)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return c.fail("%v", err)
	}
	select {
	case <-sent:
	case <-time.After(500 * time.Millisecond):
	}
	return 0
}

// wget fetches one http URL. There is no TLS in box: https is refused.
func wget(c *call) int {
	o, err := getopt(c.args, "qO:T:S", map[string]byte{"quiet": 'q', "output-document": 'O', "timeout": 'T', "spider": 's'})
	if err != nil {
		return c.usage("%v", err)
	}
	if len(o.rest) != 1 {
		return c.usage("usage: wget [-qS] [-O FILE] [-T SECONDS] URL")
	}
	wait, err := seconds(o.last('T', "60"))
	if err != nil {
		return c.usage("invalid time %q", o.last('T', ""))
	}
	target := o.rest[0]
	if !strings.Contains(target, "://") {
		target = "http://" + target
	}
	for range 10 {
		u, err := url.Parse(target)
		if err != nil {
			return c.usage("%v", err)
		}
		if u.Scheme != "http" {
			return c.fail("%s: only http is supported", u)
		}
		next, err := fetch(c, o, u, wait)
		if err != nil {
			return c.fail("%s: %v", u.Host, err)
		}
		if next == "" {
			return 0
		}
		ref, err := u.Parse(next)
		if err != nil {
			return c.fail("bad redirection %q", next)
		}
		target = ref.String()
	}
	return c.fail("too many redirections")
}

// fetch does one GET; next is where the server redirects to.
func fetch(c *call, o *options, u *url.URL, wait time.Duration) (next string, err error) {
	port := u.Port()
	if port == "" {
		port = "80"
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(u.Hostname(), port), wait)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: box-wget\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		u.RequestURI(), u.Host); err != nil {
		return "", err
	}
	br := bufio.NewReader(conn)
	status, err := br.ReadString('\n')
	if err != nil {
		return "", err
	}
	status = strings.TrimSpace(status)
	head := map[string]string{}
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line = strings.TrimSpace(line); line == "" {
			break
		}
		if o.has('S') {
			fmt.Fprintf(c.err, "  %s\n", line)
		}
		k, v, _ := strings.Cut(line, ":")
		head[strings.ToLower(k)] = strings.TrimSpace(v)
	}
	_, code, _ := strings.Cut(status, " ")
	switch {
	case strings.HasPrefix(code, "3") && head["location"] != "":
		return head["location"], nil
	case !strings.HasPrefix(code, "2"):
		return "", fmt.Errorf("server returned error: %s", status)
	case o.has('s'):
		return "", nil
	}
	var body io.Reader = br
	if n := head["content-length"]; n != "" {
		length, err := strconv.ParseInt(n, 10, 64)
		if err != nil || length < 0 {
			return "", fmt.Errorf("bad content length %q", n)
		}
		body = io.LimitReader(br, length)
	} else if strings.EqualFold(head["transfer-encoding"], "chunked") {
		body = &chunked{r: br}
	}
	name := o.last('O', "")
	if name == "" {
		if name = path.Base(u.Path); name == "/" || name == "." {
			name = "index.html"
		}
	}
	if name == "-" {
		_, err := io.Copy(c.out, body)
		return "", err
	}
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	n, err := io.Copy(f, body)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	if !o.has('q') {
		fmt.Fprintf(c.err, "%s: %d bytes saved\n", name, n)
	}
	return "", nil
}

// chunked undoes HTTP's chunked transfer coding (RFC 9112, 7.1).
type chunked struct {
	r    *bufio.Reader
	left int64
	done bool
}

func (k *chunked) Read(p []byte) (int, error) {
	if k.done {
		return 0, io.EOF
	}
	if k.left == 0 {
		line, err := k.r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		digits, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		if k.left, err = strconv.ParseInt(digits, 16, 64); err != nil || k.left < 0 {
			return 0, fmt.Errorf("bad chunk %q", line)
		}
		if k.left == 0 {
			k.done = true
			return 0, io.EOF
		}
	}
	n, err := k.r.Read(p[:min(int64(len(p)), k.left)])
	k.left -= int64(n)
	if k.left == 0 && err == nil {
		_, err = k.r.ReadString('\n')
	}
	return n, err
}
