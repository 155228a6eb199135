package cli

import (
	"strings"
	"testing"
)

// ours gives Docker's texts our name.
var ours = strings.NewReplacer("\ndocker: ", "\nberth: ", "'docker ", "'berth ", "Usage:  docker", "Usage:  berth",
	"command: docker", "command: berth",
	// Docker has changed the one for the other everywhere since.
	"\nSee 'docker ", "\nRun 'berth ", "\nSRun 'docker ", "\nRun 'berth ")

// saysMore are the refusals with words of our own, because Docker's do not say what to do or what was wrong.
func saysMore() map[string]string {
	return map[string]string{
		"-p published=8080 busybox":              "'target' must be a port number",
		"--expose foo busybox":                   "invalid start port 'foo'",
		"--mount '' busybox":                     "value is empty",
		"--network name=a,mac-address=x busybox": "x is not a valid mac address",
		"--device-cgroup-rule foo busybox":       "invalid device cgroup format 'foo': write it as",
		"--storage-opt foo busybox":              `invalid storage option: write "foo" as key=value`,
		"--annotation x busybox":                 `invalid format "x": write it as key=value`, // Docker sends it on
		"--volume a:b:c:d busybox":               "too many colons",                           // Docker sends it on
		"--volume :: busybox":                    "empty section between colons",              // Docker sends it on
		"--cpu-count 1 busybox":                  "is for Windows containers: use --cpus",     // Docker sends it on
		"--isolation hyperv busybox":             "is for Windows containers",                 // Docker sends it on
		"--kernel-memory 1g busybox":             "Linux no longer has",                       // Docker ignores it
		"--platform linux/ busybox":              "write it as os/arch",
		"--disable-content-trust=false busybox":  "images are not verified by Notary",
	}
}

// Where Docker refuses before it sends anything, so does Berth, with the same status and, unless listed here, the same
// words. What is listed says more.
func TestCreateRefusesWhatDockerRefuses(t *testing.T) {
	path := testdata(t, "refused.golden")
	dir := createDir(t)
	s := newFakeServer(t)
	g := readGolden(t, path)
	for _, line := range badCreateCases() {
		args := append([]string{"create"}, words(line)...)
		if *update {
			needDocker(t)
			s.forget()
			g.record(line, asked(t, s, dir, s.docker("", testEnv, args...)))
		}
		s.forget()
		got := asked(t, s, dir, s.berth("", testEnv, args...))
		want := ours.Replace(g.parts[line])
		if more, ok := saysMore()[line]; ok {
			if !strings.Contains(got, more) || !strings.HasPrefix(got, "status 125\n") {
				t.Errorf("create %s\n  want %q in: %s", line, more, got)
			}
			continue
		}
		if got == want {
			continue
		}
		t.Errorf("create %s\n%s", line, diffText(want, got))
	}
	if *update {
		g.write(t)
	}
}
