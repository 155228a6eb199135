// Package daemon is the program berthd without its engine: configuration, listeners, signals, and the wiring of the
// engine to the Docker API. Only this package knows daemon.json.
//
// # Settings
//
// A setting has one line in the table of settings.go: its flag, its key in the configuration file, and what it does.
// Names and meanings are dockerd's wherever dockerd has the setting. The rules are dockerd's too:
//
//   - a setting may stand on the command line or in the file, not in both; that is an error that names both values
//   - a key of the file that no setting has is an error that names the key
//   - the file is /etc/berth/daemon.json unless --config-file says otherwise; only that default may be absent
//
// What dockerd has and Berth has not is refused with a sentence of its own rather than as unknown. Where Berth has only
// one of dockerd's choices (containers always outlive the daemon, ports are never published through a process), that
// choice may be written down and the other is refused.
//
// # The life of the daemon
//
//	flags, file ─▶ lock on the exec root ─▶ engine.Open: containers taken back ─▶ sockets ─▶ ready (pid file, sd_notify)
//	                     │                                                                 │  ▲
//	                     └─ second daemon: an error that names the first one's pid  SIGHUP └──┘ reload
//	                                                                          SIGTERM, SIGINT
//	                                                                                ▼
//	                    locks freed ◀── engine.Close ◀── requests under way end ◀── sockets closed
//
// Stopping the daemon leaves every container running, with its ports, its terminal and its logs; the next daemon takes
// them back. A daemon that is killed leaves the same behind.
//
// SIGHUP reads the file again and swaps one immutable snapshot of the settings that can change without a restart; a
// change of another setting is reported and waits for the next start. SIGUSR1 writes the stacks of all goroutines to
// the log.
//
// # Sockets
//
// A unix socket belongs to root and one group, with mode 0660; until it has them, the umask keeps everybody but root
// out. A stale one is replaced; one on which somebody answers, and a file that is no socket, are left alone.
// tcp:// without TLS gives root to whoever reaches the port and needs --tls=false, said aloud. fd:// takes the sockets
// that systemd passes.
package daemon
