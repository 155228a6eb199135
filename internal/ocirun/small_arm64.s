#include "textflag.h"

// System calls of Linux on arm64.
#define SYS_fcntl 25
#define SYS_ioctl 29
#define SYS_close 57
#define SYS_write 64
#define SYS_exit_group 94
#define SYS_kill 129
#define SYS_rt_sigprocmask 135
#define SYS_rt_sigtimedwait 137
#define SYS_setpgid 154
#define SYS_getpid 172
#define SYS_clone 220
#define SYS_execve 221
#define SYS_wait4 260

#define ENOENT 2
#define EACCES 13
#define ENOTDIR 20
#define SIGCHLD 17
#define TIOCSPGRP 0x5410

// func initCode() *byte
TEXT ·initCode(SB), NOSPLIT, $0-8
	MOVD $initProgram<>(SB), R0
	MOVD R0, ret+0(FP)
	RET

// func shieldCode() *byte
TEXT ·shieldCode(SB), NOSPLIT, $0-8
	MOVD $shieldProgram<>(SB), R0
	MOVD R0, ret+0(FP)
	RET

// See small_amd64.s. R19 argv, R20 the program's environment, R21 the next path, R22 the report, R23 where the path ends,
// R24 whether it is the last.
TEXT shieldProgram<>(SB), NOSPLIT|NOFRAME, $0
	MOVD  0(RSP), R9
	ADD   $8, RSP, R19
	ADD   $16, RSP, R20
	ADD   R9<<3, R20, R20
	MOVD  0(R20), R21
	MOVBU 0(R21), R22
	SUB   $32, R22, R22
	ADD   $1, R21, R21
	ADD   $8, R20, R20
	SUB   $16, RSP, RSP

	// fcntl(report, F_SETFD, FD_CLOEXEC), and report+1
	MOVD R22, R0
	MOVD $2, R1
	MOVD $1, R2
	MOVD $SYS_fcntl, R8
	SVC
	ADD  $1, R22, R0
	MOVD $SYS_fcntl, R8
	SVC

search:
	MOVD R21, R23

scan:
	MOVBU 0(R23), R24
	ADD   $1, R23, R23
	CMP   $1, R24
	BGT   scan
	MOVB  ZR, -1(R23)

	// execve(path, argv, envp)
	MOVD R21, R0
	MOVD R19, R1
	MOVD R20, R2
	MOVD $SYS_execve, R8
	SVC
	NEG  R0, R9
	CBZ  R24, failed
	MOVD R23, R21
	CMP  $ENOENT, R9
	BEQ  search
	CMP  $ENOTDIR, R9
	BEQ  search
	CMP  $EACCES, R9
	BEQ  search

failed:
	// write(report, {-2, errno}, 8); exit_group(127)
	MOVD $-2, R10
	MOVW R10, 0(RSP)
	MOVW R9, 4(RSP)
	MOVD R22, R0
	MOVD RSP, R1
	MOVD $8, R2
	MOVD $SYS_write, R8
	SVC
	MOVD $127, R0
	MOVD $SYS_exit_group, R8
	SVC

	WORD $0x4e444e45 // the end, for who copies it
	WORD $0x21444e45

// See small_amd64.s. R19 argv of the program, R20 its environment, R21 its path, R22 the report, R23 its pid.
TEXT initProgram<>(SB), NOSPLIT|NOFRAME, $0
	MOVD  0(RSP), R9
	ADD   $24, RSP, R19
	ADD   $16, RSP, R20
	ADD   R9<<3, R20, R20
	MOVD  0(R20), R21
	MOVBU 0(R21), R22
	SUB   $32, R22, R22
	ADD   $1, R21, R21
	ADD   $8, R20, R20
	SUB   $256, RSP, RSP

	// fcntl(report, F_SETFD, FD_CLOEXEC), and report+1
	MOVD R22, R0
	MOVD $2, R1
	MOVD $1, R2
	MOVD $SYS_fcntl, R8
	SVC
	ADD  $1, R22, R0
	MOVD $SYS_fcntl, R8
	SVC

	// rt_sigprocmask(SIG_SETMASK, all, before, 8)
	MOVD $-1, R9
	MOVD R9, 0(RSP)
	MOVD $2, R0
	MOVD RSP, R1
	ADD  $8, RSP, R2
	MOVD $8, R3
	MOVD $SYS_rt_sigprocmask, R8
	SVC

	// clone(SIGCHLD): fork(2)
	MOVD $SIGCHLD, R0
	MOVD $0, R1
	MOVD $0, R2
	MOVD $0, R3
	MOVD $0, R4
	MOVD $SYS_clone, R8
	SVC
	CMP  $0, R0
	BEQ  child
	BLT  failed
	MOVD R0, R23

	// close(report), close(report+1): the child's execve, or its death, is now what ends them
	MOVD R22, R0
	MOVD $SYS_close, R8
	SVC
	ADD  $1, R22, R0
	MOVD $SYS_close, R8
	SVC

loop:
	// rt_sigtimedwait(all, siginfo, NULL, 8)
	MOVD RSP, R0
	ADD  $24, RSP, R1
	MOVD $0, R2
	MOVD $8, R3
	MOVD $SYS_rt_sigtimedwait, R8
	SVC
	CMP  $0, R0
	BLE  loop
	CMP  $SIGCHLD, R0
	BEQ  reap

	// kill(child, signal)
	MOVD R0, R1
	MOVD R23, R0
	MOVD $SYS_kill, R8
	SVC
	B    loop

reap:
	// wait4(-1, status, WNOHANG, NULL), until there is nobody left
	MOVD $-1, R0
	ADD  $16, RSP, R1
	MOVD $1, R2
	MOVD $0, R3
	MOVD $SYS_wait4, R8
	SVC
	CMP  $0, R0
	BLE  loop
	CMP  R23, R0
	BNE  reap

	// exit_group(exited ? code : 128 + signal)
	MOVWU 16(RSP), R9
	AND   $0x7f, R9, R0
	CBNZ  R0, killed
	LSR   $8, R9, R0
	AND   $0xff, R0, R0
	B     exit

killed:
	ADD $128, R0, R0

exit:
	MOVD $SYS_exit_group, R8
	SVC

child:
	// setpgid(0, 0), and the terminal, if there is one, to this group: SIGTTOU is blocked
	MOVD $0, R0
	MOVD $0, R1
	MOVD $SYS_setpgid, R8
	SVC
	MOVD $SYS_getpid, R8
	SVC
	MOVW R0, 16(RSP)
	MOVD $0, R0
	MOVD $TIOCSPGRP, R1
	ADD  $16, RSP, R2
	MOVD $SYS_ioctl, R8
	SVC

	// rt_sigprocmask(SIG_SETMASK, before, NULL, 8)
	MOVD $2, R0
	ADD  $8, RSP, R1
	MOVD $0, R2
	MOVD $8, R3
	MOVD $SYS_rt_sigprocmask, R8
	SVC

	// execve(path, argv, envp)
	MOVD R21, R0
	MOVD R19, R1
	MOVD R20, R2
	MOVD $SYS_execve, R8
	SVC

failed:
	// write(report, {-2, errno}, 8)
	NEG  R0, R9
	MOVD $-2, R10
	MOVW R10, 16(RSP)
	MOVW R9, 20(RSP)
	MOVD R22, R0
	ADD  $16, RSP, R1
	MOVD $8, R2
	MOVD $SYS_write, R8
	SVC
	MOVD $127, R0
	B    exit

	WORD $0x4e444e45 // the end, for who copies it
	WORD $0x21444e45
