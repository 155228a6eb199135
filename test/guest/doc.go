// Package guest runs test programs on another kernel: Debian's, in QEMU, with cgroup version 2 alone. The machines
// that develop Berth may have version 1, and a test that was never run on version 2 says nothing about it.
//
//	Run ── go test -c ──▶ test binary ─┐
//	       busybox, kernel modules  ───┴▶ initrd (cpio) ──▶ qemu -kernel /boot/vmlinuz-* ──▶ /init
//	                                                                                          │ mounts, modules
//	       one subtest per program ◀── serial line: "@guest begin N" … "@guest end N STATUS" ◀┘ each program
//
// A guest may have a disk, and then the power can be cut: Machine.Cut kills it at a moment of the test's choosing, and
// the next boot finds what was written until then.
//
// A guest of PrepareSystemd has Debian's systemd as process 1, with one unit, which runs the programs. Any other
// guest is the simplest machine there is: no other disk, no network, no init system; its root is a tmpfs, since
// nothing can be pivoted away from an initrd. QEMU emulates the processor (-accel tcg), because /dev/kvm may be
// there and not work; the guest is some ten times slower than the host and boots in about six seconds, so one Run
// should carry all programs.
//
// Where QEMU, the kernel or busybox is missing the test is skipped; on CI it fails, so that it is never skipped
// there unnoticed.
package guest
