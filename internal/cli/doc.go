// Package cli is the command line: it turns words into requests of the Docker Engine API and answers into text.
//
// It knows nothing of the host a container runs on. Everything goes through the API; what it reads itself are the
// files a person names (an environment file, a seccomp profile, a tar archive) and Docker's client configuration.
//
//	words ──▶ table of commands ──▶ one cobra command ──▶ grammars ──▶ request
//	          (only the one asked for is built)                          │ HTTP over a unix socket
//	text  ◀── templates, tables, progress, raw streams ◀───────────── answer
//
// # The life of one command line
//
// Main takes the words, the streams and the environment, and returns the exit status; nothing in the package touches
// os.Exit, os.Stdout or the environment of the process. The table in tree.go names every command with a function that
// builds it. Only the commands on the path to the one asked for are built, because most of them are never used and
// the person is waiting.
//
// # Exit statuses
//
//	0    done
//	1    the server or the command refused; every refusal is one sentence on standard error
//	125  a flag is wrong, or "run" could not start its container
//	126  the container's command cannot be executed      (run, start -a, exec)
//	127  the container's command was not found           (run, start -a, exec)
//	n    what the container's command returned; 128+n when signal n ended it
//
// # The connection
//
// The server is the first of: -H, BERTH_HOST, DOCKER_HOST, the socket of the daemon of this machine. The daemon of this
// machine is known to speak apiVersion, so no round trip is spent on asking; a server named in another way is asked
// once. Where the socket of this machine is silent and nobody named a server, root's command line starts berthd from
// its own directory and waits for its word that it is ready (autostart.go).
//
// # The grammars
//
// Each small language of the flags of run and create has one file, grammar_*.go, with a function from text to API
// values that touches nothing else, a table of good and bad input, and a fuzz target.
//
// # Templates
//
// --format takes the language of text/template. It is executed by template.go on parsed JSON and on rows of named
// columns rather than by text/template itself, because linking that package makes the linker keep every exported method
// of every type: it costs a third of the program.
package cli
