package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// short are the waits of less than half a minute that tests may have: for what must not come, or for what is tried again.
var short = map[string][]string{
	"cmd/berth-box/box_test.go":        {"100 * time.Millisecond"},
	"engine/life_test.go":              {"100 * time.Millisecond", "500 * time.Millisecond"}, // of a container's own; of what must not be over
	"internal/cgroup/group_test.go":    {"20 * time.Millisecond"},
	"internal/monitor/recover_test.go": {"50*time.Millisecond"},
	"test/cli/terminal_test.go":        {"300 * time.Millisecond"},
	"test/e2e/security_probe_test.go":  {"400 * time.Millisecond"},
}

// TestTestsArePatient: no test fails because the machine was busy. It waits for the event and not for a time, what it waits for has half
// a minute at least, and how long something took is the benchmark's business. Ports that a program is to listen on come from
// harness.FreePort: one that the kernel gave and took back may be somebody else's by then.
func TestTestsArePatient(t *testing.T) {
	deadline := regexp.MustCompile(`(WithTimeout\([^,]+, ?|time\.After\(|time\.Now\(\)\.Add\(|[eE]ventually\([^,]+, ?|DialTimeout\([^,]+, [^,]+, ?|Timeout: ?)` +
		`(([0-9]*) ?\*? ?time\.(Second|Millisecond|Microsecond))`)
	units := map[string]time.Duration{"Second": time.Second, "Millisecond": time.Millisecond, "Microsecond": time.Microsecond}
	took := regexp.MustCompile(`\btook >|time\.Since\([^)]*\) >|:= time\.Since\([^)]*\); \w+ >`)
	slept := regexp.MustCompile(`; sleep 0?\.[0-9]+; (\$[A-Z]|curl|nc|cat|test) `)
	for _, s := range sources(t) {
		if strings.HasPrefix(s.dir, "bench") {
			continue
		}
		for path := range s.tests {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for line := range strings.Lines(string(data)) {
				n++
				for _, m := range deadline.FindAllStringSubmatch(line, -1) {
					count, err := strconv.Atoi(m[3])
					if err != nil {
						count = 1
					}
					allowed := false
					for _, a := range short[filepath.ToSlash(path)] {
						allowed = allowed || a == m[2]
					}
					if time.Duration(count)*units[m[4]] < 30*time.Second && !allowed {
						t.Errorf("%s:%d waits for %s only; a busy machine needs 30 s and more", path, n, m[2])
					}
				}
				if took.MatchString(line) {
					t.Errorf("%s:%d fails on how long something took: %s", path, n, strings.TrimSpace(line))
				}
				if slept.MatchString(line) {
					t.Errorf("%s:%d sleeps for what comes sooner or later: %s", path, n, strings.TrimSpace(line))
				}
				if strings.HasPrefix(s.dir, "test/") && strings.Contains(line, `Listen("tcp", "127.0.0.1:0")`) {
					t.Errorf("%s:%d takes a port from the kernel: a program's comes from harness.FreePort", path, n)
				}
			}
		}
	}
}
