// Package logfile writes and reads what containers print, in the json-file format of Docker: any tool that reads
// Docker's log files reads these.
//
// # Format
//
// One JSON object a line, its members always in this order:
//
//	{"log":"hello\n","stream":"stdout","time":"2026-11-21T10:00:00.123456789Z"}
//	{"log":"…","stream":"stderr","attrs":{"k":"v"},"time":"…"}        attrs only when the container has some
//
// log is one line with its newline. Quotes, backslashes and the characters <, > and & are escaped as well as control
// characters (\n and \r by name, the others as \u00XX) and U+2028 and U+2029; a byte that is not UTF-8 becomes
// \ufffd. time is RFC 3339 in UTC without trailing zeros in its fraction. It is the moment when the line was taken
// from the container: all lines that were fetched together share it.
//
// A line longer than 16 KiB is written in pieces of that size, and only the last one ends in "\n"; the pieces share
// the time of the first. A cut never goes through a character, so a piece may be up to three bytes shorter. What a
// container prints last without a newline is written without one.
//
// # Files
//
//	NAME            the newest; lines are only ever appended
//	NAME.1          the one before, …
//	NAME.2.gz       the same, compressed when that is asked for
//
// Before a file would outgrow its size (20 MB unless another is given) every file moves on by one number and the last
// of them (of 3 unless another number is given) is removed, so a log is bounded by default. With a single file the
// old one is removed: who follows it still holds it open and loses nothing. A line that is larger than a whole file
// gets a file of its own.
//
// Compressing takes a megabyte of memory that a small writer does not want to have had: Compress is a function of its
// own, to be run in another process after a rotation. It works on a copy and may be killed at any moment. A log that
// is written faster than it can be compressed stays uncompressed, within its bounds.
//
// # When something goes wrong
//
// A write that fails (no space, a quota, a bad disk) is never the container's problem. The file is cut back to its
// last whole line, the lost entries are counted, and the first write that succeeds again is preceded by an entry on
// stderr that says how many were lost and why.
//
// A writer that was killed may leave a torn last line. A reader takes a line only with its newline; a new writer cuts
// the torn rest off. A line that is no entry is passed over.
package logfile
