package main

import (
	"fmt"
	"os"
)

func runtimeCommand(args []string) int {
	fmt.Fprintln(os.Stderr, "berth-runtime: no OCI verbs yet")
	return 1
}
