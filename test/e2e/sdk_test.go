package e2e

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// dockerode is the release that is tried.
const dockerode = "dockerode@4.0.9"

// The libraries people write their tools with work unchanged. What they are asked is in testdata.
func TestPythonSDK(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "/usr/bin/python3")
	d := harness.Start(t)
	runScript(t, d, exec.Command("/usr/bin/python3", "testdata/docker_py.py"))
}

func TestNodeSDK(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "node", "npm")
	dir := t.TempDir()
	for try := 1; ; try++ { // the registry may fail once
		install := exec.Command("npm", "install", "--prefix", dir, "--no-save", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund",
			"--loglevel=error", dockerode)
		install.Env = append(os.Environ(), "npm_config_cache="+filepath.Join(dir, "cache"))
		out, err := install.CombinedOutput()
		if err == nil {
			break
		}
		if try == 4 {
			t.Fatalf("npm: %v\n%s", err, out)
		}
		t.Logf("npm, try %d: %v\n%s", try, err, out)
		time.Sleep(time.Duration(try) * 5 * time.Second)
	}
	script, err := os.ReadFile("testdata/dockerode.mjs")
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "dockerode.mjs") // beside node_modules, where imports look
	if err := os.WriteFile(at, script, 0o600); err != nil {
		t.Fatal(err)
	}
	d := harness.Start(t)
	runScript(t, d, exec.Command("node", at))
}

func runScript(t *testing.T, d *harness.Daemon, cmd *exec.Cmd) {
	t.Helper()
	bridge := netip.MustParsePrefix(d.Subnet)
	apart := bridge.Addr().As4() // next to the bridge's own, which nobody else uses either
	apart[2] ^= 1
	subnet := netip.PrefixFrom(netip.AddrFrom4(apart), 24).Masked()
	cmd.Env = append(d.Env(), "TEST_SUBNET="+subnet.String())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "everything holds\n") {
		t.Errorf("%v\n%s", err, out)
	}
}
