package cli

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "record anew what Docker's client does")

// createCases are words after "create". $DIR is a directory with the files the cases name.
func createCases() []string {
	return strings.Split(strings.TrimSpace(`
busybox
busybox sh -c 'echo "x y"'
-i busybox
-t busybox
-it busybox sh
-a stdout busybox
-a STDIN -a stderr -i busybox
--name web -h host --domainname example.com busybox
-e A=1 -e B= -e HERE -e NOWHERE busybox
--env-file env.list -e A=flag busybox
--label a=b --label c -l d= busybox
--label-file labels.list -l LA=flag busybox
-u 1000:1000 -w /tmp busybox
--entrypoint /bin/sh busybox -c true
--entrypoint "" busybox true
--stop-signal SIGINT --stop-timeout 5 busybox
--stop-timeout 0 busybox
--init busybox
--init=false busybox
--rm busybox
--restart always busybox
--restart on-failure:5 busybox
--restart unless-stopped busybox
--restart no busybox
-m 512m --memory-reservation 1g --memory-swap -1 --memory-swappiness 0 busybox
--memory 1.5g --memory-swap 2G busybox
-c 512 --cpu-period 100000 --cpu-quota 50000 --cpuset-cpus 0-1 --cpuset-mems 0 busybox
--cpus 1.5 --cpu-rt-period 1000000 --cpu-rt-runtime 950000 busybox
--cpus .25 busybox
--pids-limit 100 busybox
--pids-limit -1 busybox
--blkio-weight 300 --blkio-weight-device /dev/sda:200 busybox
--device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:2MB --device-read-iops /dev/sda:1000 --device-write-iops /dev/sda:10 busybox
--oom-kill-disable --oom-score-adj -500 busybox
--ulimit nofile=1024:2048 --ulimit nproc=10 busybox
--ulimit core=-1 busybox
--shm-size 128m busybox
--cgroup-parent /grp --cgroupns host busybox
--cgroupns private busybox
--ipc host --pid host --uts host --userns host busybox
--ipc container:abc --pid container:abc busybox
--runtime runc --isolation default busybox
--privileged --cap-add NET_ADMIN --cap-add SYS_TIME --cap-drop ALL busybox
--cap-drop=chown busybox
--security-opt no-new-privileges busybox
--security-opt no-new-privileges:true --security-opt label=disable busybox
--security-opt seccomp=unconfined --security-opt apparmor=unconfined busybox
--security-opt seccomp=seccomp.json busybox
--security-opt systempaths=unconfined busybox
--sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=1 busybox
--group-add audio --group-add 1001 busybox
--annotation a=b --annotation c=d busybox
--read-only busybox
--tmpfs /run:size=64m,mode=1777 --tmpfs /tmp busybox
-v /data busybox
-v name:/data busybox
-v name:/data:ro busybox
-v /host:/data busybox
-v /host:/data:ro,z busybox
-v ./rel:/data busybox
-v .:/data busybox
-v /a:/b -v /c:/d:rshared -v vol:/e:nocopy busybox
--volumes-from abc --volumes-from def:ro --volume-driver local busybox
--mount type=bind,source=/a,target=/b busybox
--mount type=bind,src=/a,dst=/b,readonly busybox
--mount type=bind,src=./rel,dst=/b,ro=true,bind-propagation=rshared busybox
--mount type=bind,src=/a,dst=/b,readonly,bind-recursive=disabled busybox
--mount type=bind,src=/a,dst=/b,readonly,bind-recursive=writable busybox
--mount type=bind,src=/a,dst=/b,readonly,bind-recursive=readonly,bind-propagation=rprivate busybox
--mount type=bind,src=/a,dst=/b,consistency=cached busybox
--mount src=vol,target=/b busybox
--mount target=/b busybox
--mount type=volume,src=vol,dst=/b,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=type=nfs,volume-opt=o=addr=1.2.3.4,volume-subpath=sub busybox
--mount '"type=volume","src=vol","dst=/b","volume-opt=o=a,b"' busybox
--mount type=tmpfs,dst=/b,tmpfs-size=64m,tmpfs-mode=1770 busybox
--mount type=tmpfs,destination=/b busybox
--mount type=image,src=busybox,dst=/b,image-subpath=etc busybox
-p 80 busybox
-p 8080:80 busybox
-p 127.0.0.1:8080:80/tcp -p 53:53/udp busybox
-p 127.0.0.1::80 busybox
-p 8000-8002:80-82 busybox
-p 8000-8010:80 busybox
-p [::1]:8080:80 busybox
-p 80/sctp busybox
-p published=8080,target=80 busybox
-p published=8080,target=80,protocol=udp busybox
-P --expose 90 --expose 100-102/udp busybox
--expose 80 -p 80:80 busybox
--network none busybox
--network host busybox
--network bridge busybox
--network container:abc busybox
--network mine busybox
--net mine busybox
--network mine --network-alias a --network-alias b --ip 10.0.0.5 --ip6 fd00::5 --link-local-ip 169.254.1.1 busybox
--network mine --mac-address 02:42:ac:11:00:02 busybox
--mac-address 02:42:ac:11:00:02 busybox
--network mine --link db:database busybox
--link db busybox
--network name=mine,alias=web,ip=10.0.0.5,mac-address=02:42:ac:11:00:02,driver-opt=a=b,gw-priority=7 busybox
--network name=one --network name=two,alias=x busybox
--network one --network two busybox
--network name=one,ip6=fd00::7,link-local-ip=169.254.3.3 busybox
--dns 1.1.1.1 --dns 2606:4700::1111 --dns-search example.com --dns-search . --dns-option ndots:2 busybox
--add-host db:10.0.0.1 --add-host six:::1 --add-host gw:host-gateway --add-host eq=1.2.3.4 --add-host br=[::1] busybox
--device /dev/null --device /dev/zero:/dev/z --device /dev/full:r --device /dev/random:/dev/x:rw busybox
--device vendor.com/class=name --device vendor.com/class=other busybox
--device-cgroup-rule 'c 1:3 rwm' --device-cgroup-rule 'b *:* m' busybox
--gpus all busybox
--gpus 2 busybox
--gpus device=0 busybox
--gpus '"device=0,1"' busybox
--gpus 'driver=nvidia,count=all,"capabilities=utility,compute","options=a=b"' busybox
--log-driver json-file --log-opt max-size=10m --log-opt max-file=3 busybox
--log-driver none busybox
--health-cmd 'curl -f x' --health-interval 5s --health-timeout 2s --health-retries 4 --health-start-period 1m --health-start-interval 100ms busybox
--health-interval 5s busybox
--no-healthcheck busybox
--storage-opt size=10G busybox
--platform linux/arm64/v8 busybox
--platform linux/amd64 busybox
--name x --platform linux busybox
--hostname x.y.z --userns= busybox
--cidfile cid.out busybox
--volume-driver local -v /x busybox
-l com.example.very=long=value busybox
`), "\n")
}

// badCreateCases are refused before anything is sent.
func badCreateCases() []string {
	return strings.Split(strings.TrimSpace(`
--nosuch busybox
-a foo busybox
-m 12x busybox
--cpus abc busybox
--cpus 0.0000000001 busybox
--memory-swappiness 101 busybox
--restart x:y busybox
--restart :5 busybox
--rm --restart always busybox
-p x:y:z busybox
-p 80-81:90-99 busybox
-p 99999 busybox
-p 80/foo busybox
-p published=8080 busybox
--expose 80:80 busybox
--expose foo busybox
--mount foo busybox
--mount type=bind busybox
--mount type=bind,src=/a,dst=/b,foo=bar busybox
--mount type=bind,src=/a,dst=/b,ro=maybe busybox
--mount type=bind,src=/a,dst=/b,volume-nocopy busybox
--mount type=volume,dst=/b,bind-propagation=shared busybox
--mount type=tmpfs,dst=/b,tmpfs-size=x busybox
--mount type=tmpfs,dst=/b,tmpfs-mode=9 busybox
--mount type=bind,src=/a,dst=/b,bind-recursive=foo busybox
--mount type=bind,src=/a,dst=/b,bind-recursive=writable busybox
--mount type=bind,src=/a,dst=/b,ro,bind-recursive=readonly busybox
--mount '' busybox
--network name=a,foo=b busybox
--network name=a,alias busybox
--network alias=b busybox
--network a --network a busybox
--network bridge --network a busybox
--network name=a,alias=x --network-alias y busybox
--network name=a,ip=1.2.3.4 --ip 1.2.3.5 busybox
--network name=a,mac-address=x busybox
--mac-address foo busybox
--link a:b:c busybox
--add-host foo busybox
--add-host foo:bar busybox
--dns foo busybox
--device foo busybox
--device /a:/b:xyz busybox
--device /a:/b:/c:/d busybox
--device-cgroup-rule foo busybox
--blkio-weight-device foo busybox
--blkio-weight-device /dev/sda:5 busybox
--device-read-bps foo:1 busybox
--device-read-bps /dev/sda:x busybox
--device-write-iops /dev/sda:1mb busybox
--ulimit foo busybox
--ulimit nofile=a busybox
--ulimit nofile=5:1 busybox
--gpus foo=bar busybox
--gpus count=x busybox
--log-driver none --log-opt a=b busybox
--no-healthcheck --health-cmd x busybox
--health-interval -5s busybox
--security-opt foo busybox
--security-opt seccomp=/nosuch/file busybox
--storage-opt foo busybox
--pid foo busybox
--uts foo busybox
--userns foo busybox
--cgroupns foo busybox
--pull sometimes busybox
--env-file /nosuch/file busybox
--env-file bad.list busybox
-e =x busybox
-l =x busybox
--annotation x busybox
--stop-timeout x busybox
--volume a:b:c:d busybox
--volume :: busybox
--cpu-count 1 busybox
--isolation hyperv busybox
--kernel-memory 1g busybox
--platform linux/ busybox
--disable-content-trust=false busybox
`), "\n")
}

// words splits a line as a shell does with plain words and quotes.
func words(line string) (list []string) {
	var b strings.Builder
	quote, open := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			b.WriteRune(r)
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == ' ':
			if open || b.Len() > 0 {
				list = append(list, b.String())
			}
			b.Reset()
			open = false
		default:
			b.WriteRune(r)
		}
	}
	if open || b.Len() > 0 {
		list = append(list, b.String())
	}
	return list
}

// createDir is a working directory with the files the cases name.
func createDir(t *testing.T) string {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{
		"env.list":     "# comment\nA=file\n  INDENT=1\nEMPTY=\nHERE\nNOWHERE\nQUOTED=\"as is\"\n\n",
		"bad.list":     "GOOD=1\nNOT GOOD=1\n",
		"labels.list":  "LA=1\n# no\nLB\n",
		"seccomp.json": "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// meaningful are the fields in which an empty value says something.
var meaningful = map[string]bool{"StopTimeout": true, "Init": true, "Entrypoint": true, "MaskedPaths": true,
	"ReadonlyPaths": true}

// normal leaves out what means nothing, so that two encodings of the same request are the same text.
func normal(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			if list, ok := item.([]any); ok && (k == "Env" || k == "Binds") {
				// Docker's client sends these in any order.
				slices.SortFunc(list, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
			}
			item = normal(item)
			if item == nil && !(meaningful[k] && v[k] != nil) {
				delete(v, k)
			} else if item != nil {
				v[k] = item
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			if n := normal(v[i]); n != nil {
				v[i] = n
			}
		}
		if len(v) == 0 {
			return nil
		}
	case string:
		if v == "" {
			return nil
		}
	case float64:
		if v == 0 {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

// asked is the text of the create request a command line sent, or the error it printed.
func asked(t *testing.T, s *fakeServer, dir string, o outcome) string {
	sent := s.took("POST", "/containers/create")
	if len(sent) == 0 {
		return fmt.Sprintf("status %d\n%s", o.code, strings.ReplaceAll(o.err, dir, "$DIR"))
	}
	var body any
	if err := json.Unmarshal([]byte(sent[0].body), &body); err != nil {
		t.Fatalf("the request %q is no JSON: %v", sent[0].body, err)
	}
	text, err := json.MarshalIndent(normal(body), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return "?" + sent[0].query.Encode() + "\n" + strings.ReplaceAll(string(text), dir, "$DIR") + "\n"
}

// golden compares text with a recorded file, one part per case.
type golden struct {
	path  string
	parts map[string]string
	order []string
}

func readGolden(t *testing.T, path string) *golden {
	g := &golden{path: path, parts: map[string]string{}}
	if *update {
		return g
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: record it with -update", err)
	}
	for part := range strings.SplitSeq(string(data), "=== ") {
		if name, text, ok := strings.Cut(part, "\n"); ok {
			g.parts[name] = text
		}
	}
	return g
}

func (g *golden) record(name, text string) {
	if _, twice := g.parts[name]; !twice {
		g.order = append(g.order, name)
	}
	g.parts[name] = text
}

func (g *golden) write(t *testing.T) {
	var b strings.Builder
	for _, name := range g.order {
		fmt.Fprintf(&b, "=== %s\n%s", name, g.parts[name])
	}
	if err := os.WriteFile(g.path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func testdata(t *testing.T, name string) string {
	abs, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func needDocker(t *testing.T) {
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("recording needs Docker's client")
	}
}

var testEnv = []string{"HERE=here"}

// The recorded requests are those of Docker's client 28.2: for the same words Berth must ask for the same container.
func TestCreateAsksForWhatDockerAsksFor(t *testing.T) {
	path := testdata(t, "create.golden")
	dir := createDir(t)
	s := newFakeServer(t)
	g := readGolden(t, path)
	for _, line := range createCases() {
		args := append([]string{"create"}, words(line)...)
		if *update {
			needDocker(t)
			s.forget()
			g.record(line, asked(t, s, dir, s.docker("", testEnv, args...)))
			os.Remove("cid.out")
		}
		s.forget()
		got := asked(t, s, dir, s.berth("", testEnv, args...))
		os.Remove("cid.out")
		if want := g.parts[line]; got != want {
			t.Errorf("create %s\n%s", line, diffText(want, got))
		}
	}
	if *update {
		g.write(t)
	}
}

// diffText shows the lines that differ.
func diffText(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	in := func(list []string, s string) bool {
		for _, x := range list {
			if x == s {
				return true
			}
		}
		return false
	}
	var out strings.Builder
	for _, l := range a {
		if !in(b, l) {
			fmt.Fprintf(&out, "  docker: %s\n", l)
		}
	}
	for _, l := range b {
		if !in(a, l) {
			fmt.Fprintf(&out, "  berth:  %s\n", l)
		}
	}
	if out.Len() == 0 {
		return fmt.Sprintf("  docker: %q\n  berth:  %q", want, got)
	}
	return out.String()
}
