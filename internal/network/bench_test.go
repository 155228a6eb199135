package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// start attaches once and gives everything back, as a container that ends at once.
func start(b testing.TB, n *Networks, r AttachRequest) time.Duration {
	r.ContainerID = newID()
	r.Name = r.ContainerID[:12]
	t := time.Now()
	a, err := n.Attach(context.Background(), r)
	took := time.Since(t)
	if err != nil {
		b.Fatal(err)
	}
	a.NetNS.Close()
	if err := n.Detach(context.Background(), r.ContainerID); err != nil {
		b.Fatal(err)
	}
	return took
}

func report(b *testing.B, ds []time.Duration) {
	slices.Sort(ds)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(ds[len(ds)/2].Microseconds()), "µs-median")
	b.ReportMetric(float64(ds[len(ds)*9/10].Microseconds()), "µs-p90")
	b.ReportMetric(float64(ds[len(ds)-1].Microseconds()), "µs-max")
}

func BenchmarkAttach(b *testing.B) {
	port := []PortRequest{{Container: 80}}
	for _, c := range []struct {
		name string
		warm int
		r    AttachRequest
	}{
		{"cold", -1, AttachRequest{}},
		{"warm", 4, AttachRequest{}},
		{"none", -1, AttachRequest{None: true}},
		{"cold-port", -1, AttachRequest{Ports: port}},
		{"warm-port", 4, AttachRequest{Ports: port}},
		{"named", -1, on("named")},
		{"named-port", -1, AttachRequest{Endpoints: on("named").Endpoints, Ports: port}},
	} {
		b.Run(c.name, func(b *testing.B) {
			n := room(b, func(o *Options) { o.Warm = c.warm })
			if _, err := n.Create(context.Background(), CreateRequest{Name: "named"}); err != nil {
				b.Fatal(err)
			}
			var ds []time.Duration
			for b.Loop() {
				if c.warm > 0 {
					waitReady(b, n)
				}
				ds = append(ds, start(b, n, c.r))
			}
			report(b, ds)
		})
	}
}

func waitReady(b testing.TB, n *Networks) {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		n.warm.mu.Lock()
		ready := len(n.warm.ready) > 0
		n.warm.mu.Unlock()
		if ready {
			return
		}
		if time.Now().After(deadline) {
			b.Fatal("the pool stays empty")
		}
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkDetach takes back a container with and without a published port.
func BenchmarkDetach(b *testing.B) {
	for _, ports := range []int{0, 1} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			n := room(b)
			var ds []time.Duration
			for b.Loop() {
				r := AttachRequest{ContainerID: newID(), Name: "x"}
				for range ports {
					r.Ports = append(r.Ports, PortRequest{Container: 80})
				}
				a, err := n.Attach(context.Background(), r)
				if err != nil {
					b.Fatal(err)
				}
				a.NetNS.Close()
				t := time.Now()
				if err := n.Detach(context.Background(), r.ContainerID); err != nil {
					b.Fatal(err)
				}
				ds = append(ds, time.Since(t))
			}
			report(b, ds)
		})
	}
}

// BenchmarkBurst attaches 100 containers, 8 at a time, keeps them, and lets them go.
func BenchmarkBurst(b *testing.B) {
	for _, warm := range []int{-1, 2} {
		for _, ports := range []int{0, 1} {
			b.Run(fmt.Sprintf("warm=%d/ports=%d", warm, ports), func(b *testing.B) {
				n := room(b, func(o *Options) { o.Warm = warm })
				var ds []time.Duration
				var wall, again time.Duration
				rounds := 0
				for b.Loop() {
					rounds++
					files, took, each := burst(b, n, ports)
					wall += took
					ds = append(ds, each...)
					for _, f := range files {
						f.Close()
					}
					// What do those dying cost those who come?
					files, took, _ = burst(b, n, ports)
					again += took
					for _, f := range files {
						f.Close()
					}
				}
				report(b, ds)
				b.ReportMetric(float64(wall.Milliseconds())/float64(rounds), "ms-for-100")
				b.ReportMetric(float64(again.Milliseconds())/float64(rounds), "ms-for-100-while-100-die")
			})
		}
	}
}

func burst(b *testing.B, n *Networks, ports int) (files []*os.File, wall time.Duration, each []time.Duration) {
	const count, workers = 100, 8
	files = make([]*os.File, count)
	each = make([]time.Duration, count)
	ids := make([]string, count)
	var next atomic.Int32
	var wg sync.WaitGroup
	t0 := time.Now()
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= count {
					return
				}
				r := AttachRequest{ContainerID: newID(), Name: "burst"}
				for range ports {
					r.Ports = append(r.Ports, PortRequest{Container: 80})
				}
				t := time.Now()
				a, err := n.Attach(context.Background(), r)
				if err != nil {
					b.Error(err)
					return
				}
				each[i], files[i], ids[i] = time.Since(t), a.NetNS, r.ContainerID
			}
		})
	}
	wg.Wait()
	wall = time.Since(t0)
	for _, id := range ids {
		_ = n.Detach(context.Background(), id)
	}
	return files, wall, each
}

// BenchmarkCrowd puts 1,000 containers on one network, as many as a bridge has ports for, then connects all of them to a second
// one, and compares the last hundred with the first: the cost of one must not grow with those that are there. BERTH_CROWD is
// another number of containers.
func BenchmarkCrowd(b *testing.B) {
	crowd := 1000
	if n, err := strconv.Atoi(os.Getenv("BERTH_CROWD")); err == nil && n > 0 {
		crowd = n
	}
	part := max(crowd/10, 1)
	var first, last [2]time.Duration // of attach, of connect
	var heap uint64
	rounds := 0
	for b.Loop() {
		rounds++
		n := room(b, func(o *Options) { o.Pools = []Pool{{netip.MustParsePrefix("10.213.128.0/17"), 21}} })
		for _, name := range []string{"crowd", "second"} {
			if _, err := n.Create(context.Background(), CreateRequest{Name: name}); err != nil {
				b.Fatal(err)
			}
		}
		before := heapInUse()
		files, ids := make([]*os.File, crowd), make([]string, crowd)
		for step := range 2 {
			for i := range crowd {
				t := time.Now()
				if err := join(n, step, i, files, ids); err != nil {
					b.Fatalf("container %d: %v", i, err)
				}
				switch took := time.Since(t); {
				case i < part:
					first[step] += took
				case i >= crowd-part:
					last[step] += took
				}
			}
		}
		heap += heapInUse() - before
		for i := range ids {
			files[i].Close()
			if err := n.Detach(context.Background(), ids[i]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for step, what := range []string{"attach", "connect"} {
		b.ReportMetric(float64(first[step].Microseconds())/float64(part*rounds), "µs-"+what+"-first")
		b.ReportMetric(float64(last[step].Microseconds())/float64(part*rounds), "µs-"+what+"-last")
	}
	b.ReportMetric(float64(heap)/float64(2*crowd*rounds), "B-per-endpoint")
}

// join attaches the container of a number, or connects it to a second network.
func join(n *Networks, step, i int, files []*os.File, ids []string) error {
	if step == 0 {
		ids[i] = newID()
		a, err := n.Attach(context.Background(), AttachRequest{ContainerID: ids[i], Name: fmt.Sprint("c", i), Endpoints: []EndpointRequest{{Network: "crowd"}}})
		if err == nil {
			files[i] = a.NetNS
		}
		return err
	}
	_, err := n.Connect(context.Background(), ConnectRequest{ContainerID: ids[i], Name: fmt.Sprint("c", i), NetNS: files[i],
		Endpoint: EndpointRequest{Network: "second"}})
	return err
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
