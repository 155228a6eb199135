package harness

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// OnAnotherHost runs the test that calls it a second time, in a network namespace of its own, where it is true: links, addresses
// and firewall rules that other people's programs leave behind go with that. Where it is false the test has been run and judged.
func OnAnotherHost(t *testing.T) bool {
	t.Helper()
	const mark = "BERTH_TEST_OTHER_HOST"
	if os.Getenv(mark) == t.Name() {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("bring up the loopback link: %v: %s", err, out)
		}
		return true
	}
	limit := 10 * time.Minute
	if end, ok := t.Deadline(); ok {
		limit = time.Until(end) - 10*time.Second // leaves time to tell what happened
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v", "-test.timeout="+limit.String())
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	runtime.LockOSThread() // it is this thread's end that would end the other
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("on another host: %v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}
