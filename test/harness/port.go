package harness

import (
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
)

// asked counts the ports that were given out.
var asked atomic.Int32

// FreePort is a TCP port of loopback that nobody has, for a program that cannot be told to choose one itself. It is from below those
// that the kernel gives to whoever does not mind (net.ipv4.ip_local_port_range): one of these may be somebody else's before the program
// comes to it, which has failed tests. Other processes' tests begin elsewhere.
func FreePort(t testing.TB) string {
	t.Helper()
	const first, count = 20000, 12000
	for range count {
		port := strconv.Itoa(first + (os.Getpid()*37+int(asked.Add(1)))%count)
		l, err := net.Listen("tcp", ":"+port) // on every address: a container may be published on any
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
	t.Fatal("no port is free")
	return ""
}
