// Package durable writes small files so that a reader sees the old content or the new one and never a mixture, and
// lets one process own a directory.
//
// # Replacing a file
//
// The new content is written beside the target under a temporary name and renamed over it:
//
//	open  dir/.NAME.new      create, lock, empty it
//	write, fchmod, fsync     ReplaceFile only: WriteVolatile does not sync
//	rename .NAME.new NAME    the moment of the change
//	fsync dir                ReplaceFile only
//
// When ReplaceFile returned nil, the new content survives a loss of power. When it returned an error, the file has
// its old content, or, if only the last step failed, either content. WriteVolatile gives the same to concurrent
// readers but promises nothing across a crash of the machine; it is for tmpfs, where a reboot discards the file anyway.
//
// The temporary name depends on the target alone. What an interrupted write left is thereby taken over by the next
// write of the same file, so leftovers neither pile up nor need a sweep at each start. A writer holds a lock
// on the temporary file, so two writers of one target come one after the other, whether they are goroutines or
// processes. Whoever lists a directory that is written through this package skips the names for which IsTemporary is
// true; whoever owns it may call RemoveTemporary once after taking its lock.
//
// # Locks
//
// A lock is flock(2) on a file that holds its owner's process id, as text, for the message to the one who comes too
// late. The kernel frees it when its owner dies, however it dies. The file stays: removing it would let two
// processes lock two different files of the same name.
//
// The package refuses targets without a base name ("", ".", "/") and does not follow a symbolic link at the
// temporary name. Directories must belong to us: paths inside trees that a container can write go through confine.
package durable
