// Package e2e holds the end-to-end tests: real daemons, real clients, real containers. Each test reads as a list of
// obligations, a command line and what must come of it; `$D` stands for the client, and where a table is run it is run
// with our own client and with every docker of the machine.
//
// They run with `make e2e` (or BERTH_E2E=1), as root, against bin/. Everything they make is their own and is searched
// for leaks at the end; see package harness.
package e2e
