// Package dockerapi serves the Docker Engine API over an engine.Engine. It is a thin face: a handler decodes its
// request, calls the engine or one of its rooms once, and encodes the answer. No API struct travels further down, and
// none is ever saved.
//
// # The versions
//
// Every path may start with "/v1.NN/"; without it the newest version is meant. NN goes from MinVersion (1.24) to
// MaxVersion (1.55). The answer's header "Api-Version" names MaxVersion, and clients come down to what they know:
//
//	docker 20.10 speaks 1.41, docker 28.2 speaks 1.50, moby/client 0.6 would speak 1.56 and settles for 1.55
//
// What differs between versions stands in versions.go and nowhere else: requests are brought up to the newest version
// before a handler looks at them, answers are brought down after it has made them.
//
// # A request's way
//
//	ServeHTTP ── version prefix ── route (routes.go, a literal table) ── handler ── engine
//	    ▲                                                                              │
//	    └── writeError (errors.go): errdefs kind → status, body {"message": "…"} ◀─────┘
//
// Bodies that are JSON are read whole, at most 4 MiB of them, before anything is done; unknown fields are let through,
// as Docker does, because clients of other versions send them. Bodies that are archives are streamed and never parsed
// here. Fields that Berth understands but cannot honour are refused in a sentence; none is ignored in silence.
//
// # Streams
//
// Attach and exec turn the HTTP connection into a raw one. The engine first makes every check and then calls back for
// the connection (engine.Opener); only there is it taken from net/http and answered with 101 or 200. From then on it
// belongs to the engine, which hands its descriptor to the container's monitor. A websocket is bridged to a pair of
// sockets.
//
// An operation that changes something runs to its end even if the client goes away; one that only tells something, or
// whose product the client is waiting for (pull, load, logs, events, stats, wait), ends with it.
package dockerapi
