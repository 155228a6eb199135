// Package monitor is the process that stands beside each container, and the client by which the daemon speaks to it.
// The monitor is the parent of the container's processes. It owns their standard streams or terminals, writes the
// log, serves attached clients, and leaves the exit record. It outlives the daemon: a container never notices that
// one was killed or replaced.
//
// # A monitor's life
//
//	daemon                                     monitor
//	Launcher ── starts a spare ahead of time ─▶ waits for its document, owns nothing
//	Start ───── start: document + files ──────▶ socket, log, cgroup, pipes; ocirun.Start
//	        ◀── hello (runs) or failed ──────── (failed: everything is undone, the process ends)
//	        ═══ requests, replies, events ═════ watches
//	                                            becomes small: executes itself anew, with all that it holds
//	        ◀── event "exit" ────────────────── record written, cgroup and socket gone before this is sent
//	                                            what slow clients have not taken yet is still delivered; ends
//
// A spare whose daemon dies sees the end of its socket and ends: it has made nothing yet. The document is the order
// to go, in one message that the kernel delivers whole or not at all. Once it is read the start is carried out,
// whether the daemon lives or not: a later daemon finds either a monitor to dial, or an exit record, or nothing at
// all.
//
// A later daemon connects to the socket DIR/monitor.sock (mode 0600; a peer that is not uid 0 is refused), of which
// there may be several connections. A monitor that is gone has left DIR/exit.json, unless it was killed itself.
//
// # Messages
//
// The sockets are SOCK_SEQPACKET: a message is whole, together with its descriptors, or it does not exist. A killed
// daemon cannot leave half a request, and descriptors of a message that nobody reads are closed by the kernel.
//
//	op (1 byte) | 0 0 0 | number of the request (4 bytes) | fields
//
// Numbers are little endian, a string is its length (4 bytes) and its bytes. A message of more than 64 KiB is written
// to a memfd, and op large with that file as the first descriptor is sent instead.
//
//	daemon → monitor
//	  start    document (JSON: Config, names of the descriptors, options of the streams)   + descriptors
//	  attach   stream, options                                                              + connection
//	  exec     stream, options, exec id, flags, process (JSON), seccomp filter, its flags,
//	           its listener (JSON) or ""                                                    [+ connection]
//	  signal   exec id or "", number
//	  resize   exec id or "", rows, columns
//	  ack      number of the last event that was taken
//	monitor → daemon
//	  hello    version, pid, monitor's pid, start time, note, warnings, abilities           first on each connection
//	  failed   exit code, message                                                           instead of hello, by a start
//	  reply    error kind or 0, message, pid                                                to each request but ack
//	  event    number, kind, exec id, exit
//	  end      stream, reason                                                               an attached stream is over
//
// Fields are only ever appended and operations only added: a reader ignores what follows the fields it knows, and
// takes missing ones as zero. So an old monitor and a new daemon understand each other.
//
// Events have numbers. They are sent to every connection, and again to every new one until some connection has
// acknowledged them. An exit event is not acknowledged: the record holds it, with the exits of execs nobody has seen.
//
// # Streams
//
// An attached client is a connected stream socket; its descriptor was handed over, so bytes pass through no daemon.
// Output is written to it in Docker's frames (stream, 0 0 0, length big endian, payload) or, for terminals, as it is.
// A client handed over with the start sees the first byte. A client of an exec may ask for one frame more, with the exit code
// (ExitFrame): it then needs nobody else to learn it, daemon or no daemon; with it a terminal's output is in frames too.
//
//	container ─▶ pipe or terminal ─▶ 64 KiB ─▶ log
//	                                        ├─▶ client: what its socket does not take waits in at most 64 KiB,
//	                                        │   and until that is gone the pipe is not read: it slows the container
//	                                        └─▶ client: connection reset or closed: dropped
//	client ─▶ detach keys (terminals only) ─▶ container's standard input
//
// When a client's input ends, what happens is as with Docker: with StdinOnce (and for execs) and without a terminal the
// container's input is closed and output goes on; otherwise the client is let go.
//
// # The end of a process
//
// When a process ends, its output is read to the end before anything is closed or told. Somebody else may hold its
// pipes open, a child it left in the background or a process in another container: that is waited for, as Docker does,
// for two seconds, which also is how long clients that do not read can delay the exit event. When the container's
// first process ends, what is left in the cgroup is killed, so that sharing another pid namespace leaks no process.
//
// # Memory
//
// There is one monitor for each container, so it should cost next to nothing. Starting a container decodes JSON and
// builds mounts; all memory for that goes away by executing itself anew some time after the start and after execs: same
// process, same children, same descriptors. The small shape is one loop over epoll with fixed buffers, which are handed
// back to the kernel when there is nothing to do.
package monitor
