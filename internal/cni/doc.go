// Package cni runs the plugins of CNI configurations (the Container Network Interface, specification 1.1.0) and remembers
// for whom it did. Plugins are programs of the administrator's; what they print is not trusted.
//
// # The life of an attachment
//
//	Add    written down with the configuration's bytes ─▶ ADD of each plugin ─▶ result written down ─▶ caller
//	       one fails, hangs or is cancelled: DEL of each ─▶ forgotten
//	Check  CHECK of each plugin: is what they made still there
//	Del    DEL of each plugin, last one first, with the configuration that Add had ─▶ forgotten
//
// An attachment is written down before the first plugin runs and forgotten after the last one has cleaned up. So a daemon
// that was killed in between finds in List what there is to delete, also when the namespace or the configuration's file is
// gone, and after the machine was started again. Where DEL fails the attachment stays in List.
//
// # The state directory
//
//	<id>.json     one attachment: version, attachment, the configuration list as it was, the result where there is one
//	results/      libcni's own cache, from which DEL and CHECK take their prevResult
//
// # The plugins
//
// They are looked for in the directories of Options, run as children in a process group of their own with CNI's variables,
// PATH and nothing else of the daemon's environment, and have their deadline: the group of one that hangs is killed. More than
// a mebibyte of output ends one too. What they say in errors loses its control characters. A result is taken only if it is
// one of the specification's and has an address; that the addresses are on the interface is for the caller to see, who
// knows the namespace.
//
// The plugins' GC is asked for nothing unless the caller says so: it takes from everybody else who uses a configuration
// of the same name, and these lie where all engines of a host find them.
package cni
