// Package image owns images: what they are called, what is in them, how they come in (pull, load, import, and the one
// that ships with the program) and how they go.
//
// # What an image is
//
// A name leads to a target, a manifest or an index; the target's digest is the image's ID. Several names with one
// target are one image.
//
//	name ─▶ target ─▶ [index ─▶] manifest ─▶ config ─▶ chain of unpacked layers
//	                                     └─▶ layers, as they came over the wire
//
// The arrows are database labels, which the store's collector follows: what no name reaches is gone after the next
// collection. An image whose last name went to another one is kept under the name "dangling@<ID>", which nobody gets
// to see.
//
// # The life of an image
//
//	(absent) ──Pull, Load, Import, Builtin──▶ named ──Tag──▶ named once more
//	named ──Remove of one of several names──▶ named        named ──its name given to another──▶ dangling
//	named, dangling ──Remove, Prune──▶ (absent)
//
// All that makes an image works under one lease and gives the name last, in one database commit: until then there is
// no image, and when something fails, or the power does, the rest is garbage. Layers are hashed, decompressed and
// unpacked while they arrive, all at once; see unpack.go.
//
// # Containers
//
// A container remembers the chain it stands on. When its image is removed by force, the chain is pinned in the store
// until ReleaseLayers finds no container on it. Whoever makes a container calls Hold before Resolve and lets go when
// the container's record exists, so that no image is removed in between.
//
// What is no image by its configuration's type but lies at a registry like one, an artifact, has the same life and no
// layers to stand on: it is pulled, pushed, saved and removed as it is.
//
// # What is refused
//
// Manifests with both layers and manifests in them (CVE-2021-41190), layers that live outside of the registry
// (CVE-2020-15157), manifests and configurations beyond a few megabytes, sizes and digests that do not hold, and
// anything the store refuses in a layer. Nothing of an image's labels or annotations becomes a label of the store
// (CVE-2026-53488).
//
// Error texts are Docker's where its users match on them.
package image
