// Berth-box is the userland that ships with Berth: one static program that is a shell and some eighty everyday
// commands, chosen by the name it is called with. It is the whole content of the image berth/box, which the daemon
// carries inside itself so that a first container runs without any network, and it is what is lent to containers
// that have no shell of their own.
//
// # What it is
//
//	/bin/box NAME [ARGUMENT...]     runs the command NAME
//	/bin/NAME [ARGUMENT...]         the same, NAME being a link to box
//	box --list                      prints every NAME, one a line
//	box --rootfs FILE               writes the image's file system as FILE (a gzipped tar, the same bytes every time)
//
// The shell is mvdan.cc/sh's interpreter (bash's language, which contains POSIX's) with what that library leaves to
// its host: processes and their reaping, traps on signals, real `exec`, `kill $!`, `umask`, `ulimit`, and a prompt
// with line editing. Several file commands are u-root's (pkg/core). The rest is here, one subject a file.
//
// # Life as process 1
//
// The kernel gives process 1 no default signal actions and makes it the parent of every orphan. The shell therefore
// reaps whatever child ends, its own or adopted; and every command that finds itself process 1 ends with 128+n on
// SIGTERM, SIGINT, SIGHUP and SIGQUIT instead of ignoring them, so that stopping a container never has to wait.
// `trap "" TERM` still makes a shell deaf to it.
//
// # What it refuses
//
// It starts fast because nothing heavy is linked: no net/http, no TLS, no regexp compiled before main. An option a
// command does not know is an error with exit code 2 (1 where POSIX says so), never silently ignored.
package main
