package runtime

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The whole start, with Docker's seccomp profile, needs at most 8 MB: once when the profile is compiled, and once when its filter is
// there already. The command that waits for the container's end still has the most it ever had written down (proc_pid_status(5), VmHWM).
func TestPeakMemory(t *testing.T) {
	const most = 8_000_000
	p := newPlace(t)
	bundle := filepath.Join(p.dir, "b")
	p.rootfs(bundle + "/rootfs")
	p.must(`$R spec -b b`)
	data, err := os.ReadFile(bundle + "/config.json")
	var spec specs.Spec
	if err == nil {
		err = json.Unmarshal(data, &spec)
	}
	if err == nil {
		spec.Process.Args, spec.Process.Terminal, spec.Linux.CgroupsPath = []string{"cat"}, false, "/"+p.tag
		spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(&spec)
	}
	if err == nil {
		data, err = json.Marshal(spec)
	}
	if err == nil {
		err = os.WriteFile(bundle+"/config.json", data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.shell(`$R --root $DIR/rr delete --force m`); p.removeCgroups() })
	for _, filter := range []string{"compiled", "there"} {
		cmd := exec.Command(p.runtime, "--root", p.dir+"/rr", "run", "-b", bundle, "m")
		in, errIn := cmd.StdinPipe()
		out, errOut := cmd.StdoutPipe()
		if errIn != nil || errOut != nil {
			t.Fatal(errIn, errOut)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(in, "runs")
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "runs\n" {
			t.Errorf("it says %q, %v", line, err)
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		if err != nil {
			t.Error(err)
		}
		_, after, _ := strings.Cut(string(status), "VmHWM:")
		kilobytes, err := strconv.Atoi(strings.Fields(after + " 0")[0])
		if err != nil || kilobytes == 0 || kilobytes<<10 > most {
			t.Errorf("with the filter %s the command had %d kB, %v", filter, kilobytes, err)
		}
		t.Logf("with the filter %s the command had %d kB", filter, kilobytes)
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}
