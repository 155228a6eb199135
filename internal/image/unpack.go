package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/berth-engine/berth/internal/store"
)

// checkLayers refuses layers that we do not fetch or cannot read.
func checkLayers(layers []ocispec.Descriptor) error {
	for _, l := range layers {
		switch {
		case images.IsNonDistributable(l.MediaType):
			return badImage("its layer %s is foreign: it lies outside of the registry and is not fetched", l.Digest)
		case !images.IsLayerType(l.MediaType):
			return badImage("its layer %s has the unknown type %.80q", l.Digest, l.MediaType)
		}
	}
	return nil
}

// unpacking is the way of all layers of one image into the store. Each layer has a goroutine:
//
//	source ─▶ hash, write the blob ─pump─▶ decompress, hash ─▶ unpack ─▶ (layer below committed) ─▶ commit
//
// What it holds, in this order: the chain, so that two pulls do not unpack the same; a slot, while it moves bytes;
// the blob, while it is fetched. The slot is given back before it waits for the layer below, which may be another
// pull's.
type unpacking struct {
	im     *Images
	layers []ocispec.Descriptor
	diffs  []digest.Digest
	chains []digest.Digest
	fetch  fetcher
	say    *reporter

	committed []chan struct{}
}

// unpack brings the layers into the store, under the lease of ctx, and returns the chain of the topmost.
func (im *Images) unpack(ctx context.Context, layers []ocispec.Descriptor, diffs []digest.Digest, fetch fetcher,
	say *reporter) error {
	u := &unpacking{im: im, layers: layers, diffs: diffs, chains: chainsOf(diffs), fetch: fetch, say: say}
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range layers {
		say.say(short(l.Digest), "Pulling fs layer")
		u.committed = append(u.committed, make(chan struct{}))
	}
	for i := range layers {
		g.Go(func() error { return u.layer(ctx, i) })
	}
	return g.Wait()
}

// collect brings blobs into the store and leaves them as they are.
func (im *Images) collect(ctx context.Context, blobs []ocispec.Descriptor, fetch fetcher, say *reporter) error {
	u := &unpacking{im: im, layers: blobs, fetch: fetch, say: say}
	g, ctx := errgroup.WithContext(ctx)
	for i, b := range blobs {
		say.say(short(b.Digest), "Pulling fs layer")
		g.Go(func() error {
			here, err := im.has(ctx, b)
			if err != nil {
				return err
			}
			if here {
				say.say(short(b.Digest), "Already exists")
				return nil
			}
			if err := u.move(ctx, i, nil); err != nil {
				return err
			}
			say.say(short(b.Digest), "Pull complete")
			return nil
		})
	}
	return g.Wait()
}

func (u *unpacking) layer(ctx context.Context, i int) error {
	desc, id := u.layers[i], short(u.layers[i].Digest)
	unlock, err := u.im.store.Lock(ctx, "chain "+u.chains[i].String())
	if err != nil {
		return err
	}
	defer unlock()
	unpacked, err := u.im.store.HasChain(ctx, u.chains[i])
	if err != nil {
		return err
	}
	here, err := u.im.has(ctx, desc)
	if err != nil {
		return err
	}
	if unpacked {
		close(u.committed[i])
		if here {
			u.say.say(id, "Already exists")
			return nil
		}
	}
	var st *store.Staged
	if !unpacked {
		if st, err = u.im.store.Stage(ctx); err != nil {
			return err
		}
	}
	if err := u.move(ctx, i, st); err != nil {
		if st != nil {
			st.Abort(ctx)
		}
		return err
	}
	if st != nil {
		if err := u.commit(ctx, i, st); err != nil {
			return err
		}
	}
	u.say.say(id, "Pull complete")
	return nil
}

// commit waits for the layer below and puts this one on it.
func (u *unpacking) commit(ctx context.Context, i int, st *store.Staged) error {
	var parent digest.Digest
	if i > 0 {
		parent = u.chains[i-1]
		select {
		case <-u.committed[i-1]:
		case <-ctx.Done():
			st.Abort(ctx)
			return context.Cause(ctx)
		}
	}
	if err := st.Commit(ctx, u.chains[i], parent); err != nil {
		return fmt.Errorf("layer %s: %w", u.layers[i].Digest, err)
	}
	close(u.committed[i])
	return nil
}

// move brings the blob into the store and unpacks it into st, if that is not nil.
func (u *unpacking) move(ctx context.Context, i int, st *store.Staged) error {
	select {
	case u.im.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-u.im.slots }()
	desc, id := u.layers[i], short(u.layers[i].Digest)

	unlock, err := u.im.store.Lock(ctx, "blob "+desc.Digest.String())
	if err != nil {
		return err
	}
	w, err := u.im.store.Content().Writer(ctx, content.WithRef(layerRef(desc)),
		content.WithDescriptor(ocispec.Descriptor{Digest: desc.Digest, Size: desc.Size}))
	if errdefs.IsAlreadyExists(err) {
		unlock()
		return u.moveLocal(ctx, i, st)
	}
	if err != nil {
		unlock()
		return fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	err = u.receive(ctx, w, i, st)
	err = errors.Join(err, w.Close())
	unlock()
	if err != nil {
		return layerError(desc, err)
	}
	if st == nil {
		u.say.say(id, "Download complete")
	}
	return nil
}

// receive downloads what is missing of a blob, and unpacks it into st on the way, if that is not nil. If one that was
// continued comes out wrong, the part that was there is to blame, and it begins once more.
func (u *unpacking) receive(ctx context.Context, w content.Writer, i int, st *store.Staged) error {
	desc, id := u.layers[i], short(u.layers[i].Digest)
	status, err := w.Status()
	if err != nil {
		return err
	}
	if offset := status.Offset; offset > 0 && offset <= desc.Size {
		u.say.say(id, fmt.Sprintf("Resuming at %d of %d bytes", offset, desc.Size))
		err := u.resume(ctx, w, offset, i, st)
		var other *otherError
		if !errors.As(err, &other) {
			return err
		}
		if st != nil {
			if err := st.Restart(ctx); err != nil {
				return err
			}
		}
	}
	if err := w.Truncate(0); err != nil {
		return err
	}
	if st == nil {
		return u.download(ctx, w, 0, desc, nil, nil)
	}
	x := u.im.startExtraction(ctx, st, i == 0)
	if err = u.download(ctx, w, 0, desc, x, nil); err == nil {
		u.say.say(id, "Download complete")
		u.say.say(id, "Extracting")
	}
	return x.wait(err, u.diffs[i])
}

// resume downloads what is behind offset, while what is there already is unpacked from the disk, and the rest as it
// arrives. The download does not wait for the unpacking, and what is wrong with the blob comes before what is wrong in it.
func (u *unpacking) resume(ctx context.Context, w content.Writer, offset int64, i int, st *store.Staged) error {
	desc, id := u.layers[i], short(u.layers[i].Digest)
	if st == nil {
		return u.download(ctx, w, offset, desc, nil, nil)
	}
	part, err := u.im.store.Part(layerRef(desc))
	if err != nil {
		return err
	}
	defer part.Close()
	x := u.im.startExtraction(ctx, st, i == 0)
	written := make(chan int64, 1) // how much there is now; the last one counts
	written <- offset
	followed := make(chan error, 1)
	go func() { followed <- follow(part, x, written) }()
	err = u.download(ctx, w, offset, desc, nil, func(n int64) {
		select {
		case <-written:
		default:
		}
		written <- n
	})
	close(written)
	if err == nil {
		u.say.say(id, "Download complete")
		u.say.say(id, "Extracting")
	} else {
		x.in.abandon(errAbandoned) // what is there is unpacked for nothing
	}
	if ferr := <-followed; err == nil {
		err = ferr
	}
	return x.wait(err, u.diffs[i])
}

// follow feeds x with a file that others write, as far as they say that there is something. It ends with them, or when x
// does not want more.
func follow(f io.ReaderAt, x *extraction, written <-chan int64) error {
	var at int64
	for limit := range written {
		for at < limit {
			b, err := x.in.next()
			if err != nil {
				return err
			}
			n, err := f.ReadAt(b[:min(int64(len(b)), limit-at)], at)
			x.in.put(b[:n])
			at += int64(n)
			if err != nil && (err != io.EOF || n == 0) {
				return fmt.Errorf("read what is there of the layer: %w", err)
			}
		}
	}
	return nil
}

func layerRef(desc ocispec.Descriptor) string { return "layer-" + desc.Digest.String() }

// moveLocal unpacks a blob that is in the store.
func (u *unpacking) moveLocal(ctx context.Context, i int, st *store.Staged) error {
	if st == nil {
		return nil
	}
	desc, id := u.layers[i], short(u.layers[i].Digest)
	ra, err := u.im.store.Content().ReaderAt(ctx, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return layerError(desc, err)
	}
	defer ra.Close()
	x := u.im.startExtraction(ctx, st, i == 0)
	_, err = feed(content.NewReader(ra), nil, x, func(n int64) { u.say.bytes(id, "Extracting", n, desc.Size) })
	if err := x.wait(err, u.diffs[i]); err != nil {
		return layerError(desc, err)
	}
	return nil
}

func layerError(desc ocispec.Descriptor, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("layer %s: %w", short(desc.Digest), err)
}

// otherError says that what was fetched is not what was asked for.
type otherError struct{ error }

func (e *otherError) Unwrap() error { return e.error }

// download reads what is missing of a blob and commits it. What it reads goes to x too, if that is not nil, and how many
// bytes of the blob are written then to grown, if that is not nil.
func (u *unpacking) download(ctx context.Context, w content.Writer, offset int64, desc ocispec.Descriptor,
	x *extraction, grown func(int64)) (err error) {
	rc, err := u.fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer rc.Close()
	if offset > 0 {
		s, ok := rc.(io.Seeker)
		if !ok {
			return &otherError{errdefs.ErrNotImplemented} // it is read from the beginning
		}
		if _, err := s.Seek(offset, io.SeekStart); err != nil {
			return err
		}
	}
	id := short(desc.Digest)
	ahead := writeAhead{s: u.im.store, ref: layerRef(desc), done: offset}
	defer ahead.close()
	// One byte more than announced is read, to notice that there are more.
	n, err := feed(io.LimitReader(rc, desc.Size-offset+1), w, x, func(n int64) {
		u.say.bytes(id, "Downloading", offset+n, desc.Size)
		ahead.reached(offset + n)
		if grown != nil {
			grown(offset + n)
		}
	})
	if offset > 0 && errdefs.IsInvalidArgument(err) {
		return &otherError{err}
	}
	if err != nil {
		return err
	}
	if got := offset + n; got != desc.Size {
		return &otherError{badImage("it has %s bytes where %d are announced", atLeast(got, desc.Size), desc.Size)}
	}
	// The writer hashes by the canonical algorithm only, and is gone after a Commit.
	if got := w.Digest(); got != desc.Digest && got.Algorithm() == desc.Digest.Algorithm() {
		return &otherError{badImage("what was sent as %s is %s", desc.Digest, got)}
	}
	err = w.Commit(ctx, desc.Size, desc.Digest)
	if errdefs.IsFailedPrecondition(err) {
		return badImage("what was sent as %s is something else", desc.Digest)
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// writeAheadStep is how much of a blob is written to the disk at once.
const writeAheadStep = 4 << 20

// writeAhead has a blob written to the disk while it grows, so that the sync of all of it, for which the image waits, finds
// little to do. What fails of it is left to that sync.
type writeAhead struct {
	s    *store.Store
	ref  string
	f    *os.File
	done int64
}

func (a *writeAhead) reached(n int64) {
	if n-a.done < writeAheadStep {
		return
	}
	if a.f == nil {
		a.f, _ = a.s.Part(a.ref)
	}
	if a.f != nil {
		_ = unix.SyncFileRange(int(a.f.Fd()), a.done, n-a.done, unix.SYNC_FILE_RANGE_WRITE)
	}
	a.done = n
}

func (a *writeAhead) close() { _ = a.f.Close() }

// feed reads r to its end, into w and x, either of which may be nil, and returns how many bytes there were. The error
// is errAbandoned when x does not want more.
func feed(r io.Reader, w io.Writer, x *extraction, progress func(int64)) (total int64, err error) {
	var b []byte
	if x == nil {
		b = make([]byte, pumpBuffer)
	}
	for {
		if x != nil {
			if b, err = x.in.next(); err != nil {
				return total, err
			}
		}
		n, err := r.Read(b)
		if n > 0 && w != nil {
			if _, werr := w.Write(b[:n]); werr != nil {
				err = werr
			}
		}
		total += int64(n)
		if x != nil {
			x.in.put(b[:n])
		}
		progress(total)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

var errAbandoned = errors.New("the layer cannot be unpacked")

// extraction is the unpacking of one stream, in goroutines of its own. It must be waited for.
type extraction struct {
	in   *pump
	done chan error
	hash digest.Digester // of what is decompressed; complete when done says nil
}

// startExtraction begins one. Alone, it decompresses in one goroutine and makes files in another; where others keep the
// processors busy, both are done by one, whose data stays in the caches of its processor.
func (im *Images) startExtraction(ctx context.Context, st *store.Staged, bottom bool) *extraction {
	x := &extraction{in: newPump(), done: make(chan error, 1), hash: digest.Canonical.Digester()}
	busy := int(im.extracting.Add(1)) >= runtime.GOMAXPROCS(0)
	go func() {
		defer im.extracting.Add(-1)
		var err error
		if busy {
			err = x.together(ctx, st, bottom)
		} else {
			err = x.apart(ctx, st, bottom)
		}
		if err != nil {
			x.in.abandon(errAbandoned)
		}
		x.done <- err
	}()
	return x
}

// together decompresses and unpacks in this goroutine.
func (x *extraction) together(ctx context.Context, st *store.Staged, bottom bool) error {
	z, err := decompress(x.in)
	if err != nil {
		return err
	}
	defer z.Close()
	plain := io.TeeReader(z, x.hash.Hash())
	if err := st.Apply(ctx, plain, bottom); err != nil {
		return err
	}
	// The digest covers what is behind the end of the archive too.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return err
	}
	// What follows the compressed stream belongs to the blob and not to the layer.
	_, _ = io.Copy(io.Discard, x.in)
	return nil
}

// apart unpacks in this goroutine what another one decompresses and hashes.
func (x *extraction) apart(ctx context.Context, st *store.Staged, bottom bool) error {
	plain := newPump()
	go x.inflate(plain)
	err := st.Apply(ctx, plain, bottom)
	if err == nil {
		_, err = io.Copy(io.Discard, plain)
	}
	if err != nil {
		plain.abandon(errAbandoned)
	}
	return err
}

// inflate decompresses and hashes what comes in into out.
func (x *extraction) inflate(out *pump) {
	z, err := decompress(x.in)
	if err != nil {
		x.in.abandon(errAbandoned)
		out.finish(err)
		return
	}
	defer z.Close()
	for err == nil {
		var b []byte
		if b, err = out.next(); err != nil {
			break
		}
		n := 0
		for n < len(b) && err == nil {
			var m int
			m, err = z.Read(b[n:])
			n += m
		}
		x.hash.Hash().Write(b[:n])
		out.put(b[:n])
	}
	if err != io.EOF {
		x.in.abandon(errAbandoned)
		out.finish(err)
		return
	}
	out.finish(nil)
	_, _ = io.Copy(io.Discard, x.in) // as above
}

// wait ends an extraction that was fed everything, or until err, and returns the error that matters.
func (x *extraction) wait(err error, want digest.Digest) error {
	got, err := x.result(err)
	if err == nil && got != want {
		return badImage("it unpacks to %s and not to %s as the configuration says", got, want)
	}
	return err
}

// result is wait when nothing is known of the digest.
func (x *extraction) result(err error) (digest.Digest, error) {
	if err != nil {
		x.in.finish(&sourceError{err})
	} else {
		x.in.finish(nil)
	}
	xerr := <-x.done
	if err != nil && !errors.Is(err, errAbandoned) {
		return "", err
	}
	if xerr != nil {
		return "", xerr // and the hash may still be in use
	}
	return x.hash.Digest(), nil
}

// trim gives memory back after work that used much of it, on nobody's time.
func trim() { go debug.FreeOSMemory() }
