#include "textflag.h"

// See signals_amd64.s.
DATA signalPipe<>+0(SB)/4, $-1
GLOBL signalPipe<>(SB), NOPTR, $4

// func setSignalPipe(fd int32)
TEXT ·setSignalPipe(SB), NOSPLIT, $0-4
	MOVW fd+0(FP), R0
	MOVW R0, signalPipe<>(SB)
	RET

// func signalWriter() uintptr
TEXT ·signalWriter(SB), NOSPLIT, $0-8
	MOVD $writeSignal<>(SB), R0
	MOVD R0, ret+0(FP)
	RET

// func signalReturn() uintptr
TEXT ·signalReturn(SB), NOSPLIT, $0-8
	MOVD ZR, ret+0(FP) // the kernel's own
	RET

TEXT writeSignal<>(SB), NOSPLIT|NOFRAME, $0
	SUB  $16, RSP
	MOVB R0, 0(RSP)
	MOVW signalPipe<>(SB), R0
	MOVD RSP, R1
	MOVD $1, R2
	MOVD $64, R8 // write
	SVC
	ADD  $16, RSP
	RET
