// Package store keeps what images are made of: blobs, unpacked layers, names, and what protects them from collection.
// It also keeps the directories containers write into. It is containerd's content store, metadata database and
// overlay snapshotter, opened in this process; nobody else reads or writes these files.
//
// # The data root
//
//	lock                    held while the store is open; a second daemon is told who holds it
//	meta.db                 bbolt: names, labels, leases, references (containerd's metadata schema)
//	content/blobs/<alg>/…   blobs as they came over the wire, named by digest
//	content/ingest/…        blobs on their way
//	snapshots/metadata.db   bbolt: parents and sizes of layers (written by the snapshotter)
//	snapshots/snapshots/N/  fs/ is one unpacked layer, an overlay lower directory
//	snapshots/empty/        the lower directory of an image without layers
//	layers/<id>/            upper/ and work/ of one container, or what its driver has instead, see driver.go
//	trees/<chain>           an image put together for btrfs, see whole.go
//	plain-whiteouts         layers hide names as archives do, see probePlain
//	unsynced                layers whose files may not be on the disk yet, see settle.go
//
// Everything but the root itself is 0700, so nobody without privileges reaches a set-user-ID program of an image.
//
// # The life of a layer
//
//	Stage ─▶ staged ──Apply──▶ filled ──Commit──▶ committed under its chain ID ──(nothing refers to it) GC──▶ gone
//	            └────────────── Abort, or a crash ───────────────────────────────────────────────────▶ gone
//
// Layers are staged and filled independently of each other, so all layers of an image unpack at once; only Commit
// goes in order, bottom first, and is a matter of one directory lookup and one database commit. What a layer inherits
// from those below it without saying so (the attributes of directories it only passes through, the file behind a hard
// link) is taken over at Commit.
//
// Everything made under a lease lives until the lease ends; then only what a name, a pinned chain or another
// lease reaches stays. Open drops the leases an earlier process left, and what is on the disk and in no database, see
// sweep.go. A lease for work that can be continued, a pull, stays when the work fails or the process ends, for some
// days: the layers and parts of blobs under it serve the next try, see kept.go.
//
// # A container's layer
//
//	NewLayer ─▶ layers/<id>/{upper,work} ──RemoveLayer──▶ gone
//
// That is with overlay2. Layers of images are the same for every driver; a container keeps the one it was made with.
// Two directories and no database commit, because they are made while somebody waits for a container to start. The
// container's record is what makes them worth keeping: SweepLayers removes those without one.
//
// # When it is not whole
//
// Check compares the databases, the blobs and the directories with each other. What it finds is mended by DropDamaged,
// Refill and RemoveOrphans, which wait for nobody: while something is brought in, they do nothing and say so.
//
// # Hostile layers
//
// The tar stream of a layer is not trusted. Names resolve inside the layer's directory as a chroot would resolve them
// (openat2, RESOLVE_IN_ROOT), attributes of the overlay file system itself are dropped, and the number of entries,
// the depth of names and the number of layers are bounded.
package store
