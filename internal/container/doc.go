// Package container owns the life of containers: what was asked for (Config), what is true now (State), and what
// follows when something happens (Step). It owns the directory `containers/` under the data root and nothing else;
// it starts no process and makes no mount. Package engine acts on the Actions that Step returns.
//
// # The life of a container
//
//	                  Started              Paused
//	create ─▶ created ───────▶ running ◀──────────▶ paused
//	             │               │  ▲     Unpaused     │
//	             │        Exited │  │ Started          │ Exited
//	             │               ▼  │                  │
//	             │   policy says restart: restarting ◀─┤
//	             │   else:                exited  ◀────┘
//	             │                          │
//	             └──────── Removing ────────┴─▶ removing ─▶ (gone)
//	                                                └─ RemoveFailed ─▶ dead
//
// A Record is a value: nobody changes one in place, Apply replaces it. Step is pure, so every rule about restarts,
// automatic removal and exit codes is tested without a process.
//
// # The format
//
// `containers/<id>/record.json` holds one Record, version 1, replaced atomically. Creation and the end of a container
// are synced to disk; transitions that a reboot makes untrue anyway (started, paused) are written without a sync, and
// the records of containers that remove themselves are never synced. A record that cannot be read is set aside as
// `record.json.damaged`, reported, and does not keep the daemon from starting.
package container
