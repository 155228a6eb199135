#include "textflag.h"

// System calls of Linux on amd64.
#define SYS_write 1
#define SYS_close 3
#define SYS_rt_sigprocmask 14
#define SYS_ioctl 16
#define SYS_getpid 39
#define SYS_clone 56
#define SYS_execve 59
#define SYS_wait4 61
#define SYS_kill 62
#define SYS_fcntl 72
#define SYS_setpgid 109
#define SYS_rt_sigtimedwait 128
#define SYS_exit_group 231

#define ENOENT 2
#define EACCES 13
#define ENOTDIR 20
#define SIGCHLD 17
#define TIOCSPGRP 0x5410

// func initCode() *byte
TEXT ·initCode(SB), NOSPLIT, $0-8
	LEAQ initProgram<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func shieldCode() *byte
TEXT ·shieldCode(SB), NOSPLIT, $0-8
	LEAQ shieldProgram<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// The shield (see small.go). R12 argv, R13 the program's environment, R14 the next path, R15 where it ends, BX the report.
TEXT shieldProgram<>(SB), NOSPLIT|NOFRAME, $0
	MOVQ 0(SP), CX
	LEAQ 8(SP), R12
	LEAQ 16(SP)(CX*8), R13
	MOVQ 0(R13), R14
	MOVBLZX 0(R14), BX
	SUBQ $32, BX
	ADDQ $1, R14
	ADDQ $8, R13
	SUBQ $16, SP

	// fcntl(report, F_SETFD, FD_CLOEXEC), and report+1; not by close_range(2), which many profiles forbid
	MOVQ BX, DI
	MOVQ $2, SI
	MOVQ $1, DX
	MOVQ $SYS_fcntl, AX
	SYSCALL
	LEAQ 1(BX), DI
	MOVQ $SYS_fcntl, AX
	SYSCALL

search:
	// R15 is the byte after the path, R9 whether it is the last
	MOVQ R14, R15

scan:
	MOVBLZX 0(R15), R9
	ADDQ $1, R15
	CMPQ R9, $1
	JGT  scan
	MOVB $0, -1(R15)

	// execve(path, argv, envp)
	MOVQ R14, DI
	MOVQ R12, SI
	MOVQ R13, DX
	MOVQ $SYS_execve, AX
	SYSCALL
	NEGQ AX
	CMPQ R9, $0
	JEQ  failed
	MOVQ R15, R14
	CMPQ AX, $ENOENT
	JEQ  search
	CMPQ AX, $ENOTDIR
	JEQ  search
	CMPQ AX, $EACCES
	JEQ  search

failed:
	// write(report, {-2, errno}, 8); exit_group(127)
	MOVL $-2, 0(SP)
	MOVL AX, 4(SP)
	MOVQ BX, DI
	LEAQ 0(SP), SI
	MOVQ $8, DX
	MOVQ $SYS_write, AX
	SYSCALL
	MOVQ $127, DI
	MOVQ $SYS_exit_group, AX
	SYSCALL

	LONG $0x4e444e45 // the end, for who copies it
	LONG $0x21444e45

// The init of a container, as a program of its own: it is copied out of here, so it holds no address and no data. What it
// does is told in small.go. The kernel starts it with argc, argv and envp on the stack; below them it takes
//
//	0 all signals   8 the mask before   16 status or report   24 siginfo
//
// R12 argv of the program, R13 its environment, R14 its path, R15 its pid, BX the report.
TEXT initProgram<>(SB), NOSPLIT|NOFRAME, $0
	MOVQ 0(SP), CX
	LEAQ 24(SP), R12
	LEAQ 16(SP)(CX*8), R13
	MOVQ 0(R13), R14
	MOVBLZX 0(R14), BX
	SUBQ $32, BX
	ADDQ $1, R14
	ADDQ $8, R13
	SUBQ $256, SP

	// fcntl(report, F_SETFD, FD_CLOEXEC), and report+1; not by close_range(2), which many profiles forbid
	MOVQ BX, DI
	MOVQ $2, SI
	MOVQ $1, DX
	MOVQ $SYS_fcntl, AX
	SYSCALL
	LEAQ 1(BX), DI
	MOVQ $SYS_fcntl, AX
	SYSCALL

	// rt_sigprocmask(SIG_SETMASK, all, before, 8)
	MOVQ $-1, AX
	MOVQ AX, 0(SP)
	MOVQ $2, DI
	LEAQ 0(SP), SI
	LEAQ 8(SP), DX
	MOVQ $8, R10
	MOVQ $SYS_rt_sigprocmask, AX
	SYSCALL

	// clone(SIGCHLD): fork(2)
	MOVQ $SIGCHLD, DI
	XORQ SI, SI
	XORQ DX, DX
	XORQ R10, R10
	XORQ R8, R8
	MOVQ $SYS_clone, AX
	SYSCALL
	CMPQ AX, $0
	JEQ  child
	JLT  failed
	MOVQ AX, R15

	// close(report), close(report+1): the child's execve, or its death, is now what ends them
	MOVQ BX, DI
	MOVQ $SYS_close, AX
	SYSCALL
	LEAQ 1(BX), DI
	MOVQ $SYS_close, AX
	SYSCALL

loop:
	// rt_sigtimedwait(all, siginfo, NULL, 8)
	LEAQ 0(SP), DI
	LEAQ 24(SP), SI
	XORQ DX, DX
	MOVQ $8, R10
	MOVQ $SYS_rt_sigtimedwait, AX
	SYSCALL
	CMPQ AX, $0
	JLE  loop
	CMPQ AX, $SIGCHLD
	JEQ  reap

	// kill(child, signal)
	MOVQ R15, DI
	MOVQ AX, SI
	MOVQ $SYS_kill, AX
	SYSCALL
	JMP  loop

reap:
	// wait4(-1, status, WNOHANG, NULL), until there is nobody left
	MOVQ $-1, DI
	LEAQ 16(SP), SI
	MOVQ $1, DX
	XORQ R10, R10
	MOVQ $SYS_wait4, AX
	SYSCALL
	CMPQ AX, $0
	JLE  loop
	CMPQ AX, R15
	JNE  reap

	// exit_group(exited ? code : 128 + signal)
	MOVL 16(SP), DI
	MOVL DI, AX
	ANDL $0x7f, AX
	JNE  killed
	SHRL $8, DI
	ANDL $0xff, DI
	JMP  exit

killed:
	LEAL 128(AX), DI

exit:
	MOVQ $SYS_exit_group, AX
	SYSCALL

child:
	// setpgid(0, 0), and the terminal, if there is one, to this group: SIGTTOU is blocked
	XORQ DI, DI
	XORQ SI, SI
	MOVQ $SYS_setpgid, AX
	SYSCALL
	MOVQ $SYS_getpid, AX
	SYSCALL
	MOVL AX, 16(SP)
	XORQ DI, DI
	MOVQ $TIOCSPGRP, SI
	LEAQ 16(SP), DX
	MOVQ $SYS_ioctl, AX
	SYSCALL

	// rt_sigprocmask(SIG_SETMASK, before, NULL, 8)
	MOVQ $2, DI
	LEAQ 8(SP), SI
	XORQ DX, DX
	MOVQ $8, R10
	MOVQ $SYS_rt_sigprocmask, AX
	SYSCALL

	// execve(path, argv, envp)
	MOVQ R14, DI
	MOVQ R12, SI
	MOVQ R13, DX
	MOVQ $SYS_execve, AX
	SYSCALL

failed:
	// write(report, {-2, errno}, 8)
	NEGQ AX
	MOVL $-2, 16(SP)
	MOVL AX, 20(SP)
	MOVQ BX, DI
	LEAQ 16(SP), SI
	MOVQ $8, DX
	MOVQ $SYS_write, AX
	SYSCALL
	MOVQ $127, DI
	JMP  exit

	LONG $0x4e444e45 // the end, for who copies it
	LONG $0x21444e45
