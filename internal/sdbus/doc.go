// Package sdbus asks systemd for transient units: the few calls of its D-Bus interface (org.freedesktop.systemd1(5)) that a
// container's group needs, and of D-Bus (the D-Bus specification, "Message Protocol") what they are made of.
//
//	Dial, DialUser ── private socket, or the bus ──▶ Start, Set, Stop ──▶ Close
//
// # The way there
//
// systemd's own socket, /run/systemd/private, speaks D-Bus without a bus between: there is no Hello and no name, and signals come
// unasked. It is root's; a user's own systemd has one at XDG_RUNTIME_DIR/systemd/private, and a bus at XDG_RUNTIME_DIR/bus. Where only
// the bus's socket is there, which is what a container gets that is to manage its host, Hello, Subscribe and AddMatch come first.
//
//	client  NUL  AUTH EXTERNAL <uid in hexadecimal>  BEGIN
//	server       OK <guid>
//	client       messages from here on
//
// Were BEGIN sent only now, systemd could read it together with the first message (its sd-bus then takes what follows BEGIN into its
// buffer and does not look at it before more comes, so that both sides wait).
//
// # Messages
//
//	byte order 'l' or 'B' · type · flags · 1 · u32 body length · u32 serial
//	u32 length of the fields · fields: (byte code, variant)…, each at a multiple of eight · padding to eight · body
//
// One call is under way at a time. What systemd does takes a job, whose end is the signal JobRemoved(u, o job, s unit, s result);
// it may come before the reply that names the job, so those that come are kept.
//
// A message with a body above 1 MiB, with fields above 64 KiB or whose lengths contradict each other is an error and ends the
// connection. Of bodies only strings and object paths are read.
package sdbus
