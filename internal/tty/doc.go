// Package tty is what a terminal needs besides bytes: raw mode, the window's size, and the key sequence by which a
// person leaves a container without ending it.
//
// The detach keys have Docker's grammar: keys separated by commas, each a single character ("a", "~") or "ctrl-" and
// one of a–z @ [ \ ] ^ _; a comma itself cannot be one. "ctrl-p,ctrl-q" is the default of those who ask for none.
// A DetachScanner looks for the sequence in what is typed:
//
//	typed      handed on        state
//	l s ⏎      l s ⏎            nothing pending
//	^P         –                ^P pending: it may be the beginning of the sequence
//	x          ^P x             it was not
//	^P ^Q      –                detached; whatever follows is not consumed
//
// Bytes that may begin the sequence are held back until it is decided, so the program in the container never sees a
// completed sequence, and loses nothing of one that was not completed. Where the sequence overlaps itself ("a,a,b"
// in "aaab") the longest possible beginning stays pending, so a sequence is never missed.
//
// The package does no reading and no writing and keeps no state of its own between calls; file descriptors stay
// their caller's.
package tty
