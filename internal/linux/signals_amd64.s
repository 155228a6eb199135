#include "textflag.h"

// Where signals go; see signals.go.
DATA signalPipe<>+0(SB)/4, $-1
GLOBL signalPipe<>(SB), NOPTR, $4

// func setSignalPipe(fd int32)
TEXT ·setSignalPipe(SB), NOSPLIT, $0-4
	MOVL fd+0(FP), AX
	MOVL AX, signalPipe<>(SB)
	RET

// func signalWriter() uintptr
TEXT ·signalWriter(SB), NOSPLIT, $0-8
	LEAQ writeSignal<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func signalReturn() uintptr
TEXT ·signalReturn(SB), NOSPLIT, $0-8
	LEAQ returnSignal<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// Called by the kernel, on the thread's signal stack: DI is the signal. The kernel restores all registers afterwards.
TEXT writeSignal<>(SB), NOSPLIT|NOFRAME, $0
	SUBQ $8, SP
	MOVB DI, 0(SP)
	MOVL signalPipe<>(SB), DI
	MOVQ SP, SI
	MOVL $1, DX
	MOVL $1, AX // write
	SYSCALL
	ADDQ $8, SP
	RET

TEXT returnSignal<>(SB), NOSPLIT|NOFRAME, $0
	MOVL $15, AX // rt_sigreturn
	SYSCALL
	INT $3
