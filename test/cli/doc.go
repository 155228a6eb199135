// Package cli tries the command line as a person at a terminal does: the built program on a pseudo-terminal, against an
// API server that plays a small shell. What the tests look at is what the person sees, what the terminal is left as, and
// what the server was told.
package cli
