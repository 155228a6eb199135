package image

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// slowRegistry sends half of its big layer and then waits, for the first who asks for it, and counts what it sends.
type slowRegistry struct {
	*fakeRegistry
	big  digest.Digest
	half chan struct{} // closed when half of it was sent
	// answer may answer a request for what is missing.
	answer func(w http.ResponseWriter, r *http.Request, data []byte) bool

	mu    sync.Mutex
	sent  map[digest.Digest]int // bytes of the bodies
	asked bool
}

// eventually waits for what another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came about that %s", what)
		}
	}
}

func serveSlowly(t *testing.T) *slowRegistry {
	t.Helper()
	b := build(t, ocispec.Image{}, rootTar(t, "small", "small"), rootTar(t, "big", string(noise(3<<20))))
	s := &slowRegistry{fakeRegistry: serve(t, b), half: make(chan struct{}), sent: map[digest.Digest]int{}}
	for d, data := range b.blobs {
		if len(data) > 1<<20 {
			s.big = d
		}
	}
	s.fault = s.serve
	return s
}

type counting struct {
	http.ResponseWriter
	n func(int)
}

func (c *counting) Write(p []byte) (int, error) {
	c.n(len(p)) // before anybody has them
	return c.ResponseWriter.Write(p)
}

func (s *slowRegistry) serve(w http.ResponseWriter, r *http.Request) bool {
	d := digest.Digest(filepath.Base(r.URL.Path))
	if !strings.Contains(r.URL.Path, "/blobs/") {
		return false
	}
	s.mu.Lock()
	first := !s.asked && d == s.big
	s.asked = s.asked || first
	s.mu.Unlock()
	data := s.blobs[d]
	if first {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		w.(http.Flusher).Flush()
		close(s.half)
		<-r.Context().Done()
		return true
	}
	if d == s.big && s.answer != nil && s.answer(w, r, data) {
		return true
	}
	http.ServeContent(&counting{w, func(n int) {
		s.mu.Lock()
		s.sent[d] += n
		s.mu.Unlock()
	}}, r, "", time.Time{}, bytes.NewReader(data))
	return true
}

// begin pulls until half of the big layer is in the store and the small one is unpacked.
func (s *slowRegistry) begin(t *testing.T, im *Images) (cancel func() error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var st statuses
	done := make(chan error, 1)
	go func() {
		_, err := im.Pull(ctx, s.addr+"/x:1", PullOptions{Progress: st.add})
		done <- err
	}()
	<-s.half
	eventually(t, "half of the layer is in the store", func() bool {
		begun, err := im.store.Content().ListStatuses(im.store.Context(t.Context()))
		must(t, err)
		st.mu.Lock()
		defer st.mu.Unlock()
		for _, b := range begun {
			if b.Ref == "layer-"+s.big.String() && b.Offset == int64(len(s.blobs[s.big])/2) {
				return st.count(": Pull complete") == 1
			}
		}
		return false
	})
	s.mu.Lock()
	clear(s.sent)
	s.mu.Unlock()
	return func() error {
		stop()
		return <-done
	}
}

// finish pulls again and checks the image.
func (s *slowRegistry) finish(t *testing.T, im *Images) *statuses {
	t.Helper()
	var st statuses
	img, err := im.Pull(t.Context(), s.addr+"/x:1", PullOptions{Progress: st.add})
	must(t, err)
	if fileOf(t, im, img, "big") != string(noise(3<<20)) || fileOf(t, im, img, "small") != "small" {
		t.Error("content differs")
	}
	return &st
}

func (s *slowRegistry) wantSent(t *testing.T, st *statuses, big int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, n := range s.sent {
		if d != s.big {
			t.Errorf("%d bytes of %s were sent once more", n, d)
		}
	}
	if n := s.sent[s.big]; n != big {
		t.Errorf("%d bytes of the big layer were sent, and %d of %d were missing", n, big, len(s.blobs[s.big]))
	}
	if st.count(": Already exists") != 1 {
		t.Errorf("the small layer was unpacked once more: %q", st.list)
	}
}

func TestPullGoesOnAfterACancel(t *testing.T) {
	s, im := serveSlowly(t), open(t)
	if err := s.begin(t, im)(); !isCancel(err) {
		t.Fatal(err)
	}
	if n, err := im.Count(t.Context()); n != 0 || err != nil {
		t.Errorf("%d images, %v", n, err)
	}
	kept, err := im.store.Kept(t.Context())
	if err != nil || len(kept) != 1 || kept[0].What != "pull of "+s.addr+"/x:1" || time.Until(kept[0].Until) < time.Hour {
		t.Errorf("%v, %v", kept, err)
	}
	st := s.finish(t, im)
	size := len(s.blobs[s.big])
	s.wantSent(t, st, size-size/2)
	if st.count(fmt.Sprintf(": Resuming at %d of %d bytes", size/2, size)) != 1 {
		t.Errorf("%q", st.list)
	}
	if kept, err := im.store.Kept(t.Context()); err != nil || len(kept) != 0 {
		t.Errorf("%v is kept after all is there, %v", kept, err)
	}
	_, err = im.Remove(t.Context(), s.addr+"/x:1", RemoveOptions{})
	must(t, err)
	wantEmpty(t, im)
}

// The data root is copied while the pull is under way: that is what a process finds that comes after a kill.
func TestPullGoesOnAfterAKill(t *testing.T) {
	s, im := serveSlowly(t), open(t)
	cancel := s.begin(t, im)
	root := filepath.Join(t.TempDir(), "data")
	if out, err := exec.Command("cp", "-a", im.store.Root(), root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	next := openAt(t, root)
	must(t, next.store.GC(t.Context()))
	st := s.finish(t, next)
	size := len(s.blobs[s.big])
	s.wantSent(t, st, size-size/2)
	_, err := next.Remove(t.Context(), s.addr+"/x:1", RemoveOptions{})
	must(t, err)
	wantEmpty(t, next)
	if err := cancel(); !isCancel(err) {
		t.Error(err)
	}
}

func TestPruneDropsWhatIsKept(t *testing.T) {
	s, im := serveSlowly(t), open(t)
	if err := s.begin(t, im)(); !isCancel(err) {
		t.Fatal(err)
	}
	if r, err := im.Prune(t.Context(), PruneOptions{}); err != nil || r.Reclaimed != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := im.Prune(t.Context(), PruneOptions{Unfinished: true}); err != nil || r.Reclaimed < 1<<20 {
		t.Errorf("%+v, %v", r, err)
	}
	wantEmpty(t, im)
}

// What is continued is verified: a registry that answers with other bytes than were asked for, or a part on the disk
// that is not what it was, costs a download and no more.
func TestContinuedLayersAreVerified(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, data []byte) bool
		spoil  bool
	}{
		"the range is ignored": {answer: func(w http.ResponseWriter, _ *http.Request, data []byte) bool {
			_, _ = w.Write(data)
			return true
		}},
		"another range": {answer: func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			if r.Header.Get("Range") == "" {
				return false
			}
			r.Header.Set("Range", "bytes=10-")
			return false
		}},
		"a lying range": {answer: func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
			if !ok {
				return false
			}
			half := len(data) / 2
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %s%d/%d", from, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[:len(data)-half])
			return true
		}},
		"the part was spoiled": {spoil: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, im := serveSlowly(t), open(t)
			s.answer = c.answer
			if err := s.begin(t, im)(); !isCancel(err) {
				t.Fatal(err)
			}
			if c.spoil {
				parts, err := filepath.Glob(filepath.Join(im.store.Root(), "content/ingest/*/data"))
				if err != nil || len(parts) != 1 {
					t.Fatal(parts, err)
				}
				f, err := os.OpenFile(parts[0], os.O_WRONLY, 0)
				must(t, err)
				_, err = f.WriteAt([]byte("spoiled"), 1000)
				must(t, err)
				must(t, f.Close())
			}
			s.finish(t, im)
		})
	}
}

// What is there of a layer is unpacked, and what arrives of it too, before the rest of it is there.
func TestResumedLayersAreUnpackedAsTheyArrive(t *testing.T) {
	for _, busy := range []int32{0, 1 << 20} { // decompressed apart from the making of files, and together with it
		big := noise(6 << 20)
		b := build(t, ocispec.Image{}, rootTar(t, "small", "small"), rootTar(t, "first", "1", "big", string(big[:3<<20]), "second", "2",
			"more", string(big[3<<20:])))
		s := &slowRegistry{fakeRegistry: serve(t, b), half: make(chan struct{}), sent: map[digest.Digest]int{}}
		for d, data := range b.blobs {
			if len(data) > 1<<20 {
				s.big = d
			}
		}
		s.fault = s.serve
		im := open(t)
		im.extracting.Store(busy)
		if err := s.begin(t, im)(); !isCancel(err) {
			t.Fatal(err)
		}
		unpacked := func(name string) bool {
			list, err := filepath.Glob(filepath.Join(im.store.Root(), "snapshots/snapshots/*/fs", name))
			must(t, err)
			return len(list) == 1
		}
		must(t, im.store.GC(t.Context()))
		eventually(t, "what the first try had unpacked is gone", func() bool { return !unpacked("first") })
		goOn := make(chan struct{})
		end := sync.OnceFunc(func() { close(goOn) })
		t.Cleanup(end)
		s.answer = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			var from int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil {
				return false
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
			w.WriteHeader(http.StatusPartialContent)
			most := len(data) * 3 / 4
			_, _ = w.Write(data[from:most])
			w.(http.Flusher).Flush()
			<-goOn
			_, _ = w.Write(data[most:])
			return true
		}
		done := make(chan error, 1)
		go func() {
			_, err := im.Pull(t.Context(), s.addr+"/x:1", PullOptions{})
			done <- err
		}()
		eventually(t, "what was there is unpacked", func() bool { return unpacked("first") })
		eventually(t, "what has come since is unpacked", func() bool { return unpacked("second") && unpacked("more") })
		end()
		must(t, <-done)
	}
}

func TestTwoPullsShareOneDownload(t *testing.T) {
	s, im := serveSlowly(t), open(t)
	cancel := s.begin(t, im)
	second := make(chan error, 1)
	go func() {
		_, err := im.Pull(t.Context(), s.addr+"/x:other", PullOptions{})
		second <- err
	}()
	// The first gives up, and the second goes on from there.
	if err := cancel(); !isCancel(err) {
		t.Fatal(err)
	}
	must(t, <-second)
	st := s.finish(t, im)
	if st.count(": Already exists") != 2 {
		t.Errorf("%q", st.list)
	}
	size := len(s.blobs[s.big])
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.sent[s.big]; n != size-size/2 {
		t.Errorf("%d bytes of the big layer were sent for the second pull", n)
	}
}
