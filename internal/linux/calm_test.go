package linux

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// A process that is calm has one thread whose timers may be late, and it is the first that was made.
func TestCalm(t *testing.T) {
	const calm = "BERTH_TEST_CALM"
	if os.Getenv(calm) != "" {
		Calm()
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks { // in the order of their numbers
			slack, err := os.ReadFile("/proc/" + task.Name() + "/timerslack_ns")
			if err != nil {
				t.Fatal(err)
			}
			if task.Name() != strconv.Itoa(os.Getpid()) {
				fmt.Print(string(slack))
				os.Exit(0)
			}
		}
		t.Fatal("it has no other thread")
	}
	want := fmt.Sprintln(calmSlack)
	var got []byte
	for range 100 { // others may make many processes between our first thread and our second
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestCalm$")
		cmd.Env = append(os.Environ(), calm+"=1")
		var err error
		if got, err = cmd.Output(); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		if string(got) == want {
			return
		}
	}
	t.Errorf("its timers may be late by %s ns", got)
}
