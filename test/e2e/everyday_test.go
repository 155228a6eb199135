package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// step is one obligation: a line of shell and what must come of it. out is compared exactly unless it begins with "~":
// then it is a regular expression that must match somewhere. err is looked for in standard error, case aside.
type step struct {
	line string
	code int
	out  string
	err  string
	not  string // clients this cannot be asked of, by name
}

// obey runs the steps in order with one client.
func obey(t *testing.T, d *harness.Daemon, c harness.Client, steps []step) {
	t.Helper()
	for _, s := range steps {
		if s.not != "" && strings.Contains(s.not, c.Name) {
			continue
		}
		r := d.ShellT(t, c, s.line)
		pattern, match := strings.CutPrefix(s.out, "~")
		right := r.Out == s.out
		if match {
			right = regexp.MustCompile("(?s)" + pattern).MatchString(r.Out)
		}
		if r.Code != s.code || !right {
			t.Errorf("%s\n  got    %d, stdout %q, stderr %q\n  wanted %d, stdout %q", r.Line, r.Code, r.Out, r.Err, s.code, s.out)
			continue
		}
		if s.err != "" {
			r.Complains(s.err)
		}
	}
}

// TestEverydayCommands: what people do with docker all day, by every client, against one daemon.
func TestEverydayCommands(t *testing.T) {
	d := harness.Start(t)
	for _, c := range d.Clients() {
		t.Run(c.Name, func(t *testing.T) {
			for _, part := range []struct {
				name  string
				steps []step
			}{
				{"run", runSteps()}, {"environment", environmentSteps()}, {"isolation", isolationSteps()},
				{"files", fileSteps()}, {"network", networkSteps()}, {"life", lifeSteps()}, {"looking", lookingSteps()},
				{"logs", logSteps()}, {"exec", execSteps()}, {"cp", copySteps()}, {"images", imageSteps()},
				{"prune", pruneSteps()},
			} {
				t.Run(part.name, func(t *testing.T) {
					obey(t, d, c, part.steps)
					d.ShellT(t, c, "$D ps -aq | xargs -r $D rm -f -v >/dev/null").Exits(0)
				})
			}
		})
	}
}

func runSteps() []step {
	return []step{
		{line: `$D run --rm berth/box echo hi`, out: "hi\n"},
		{line: `$D run --rm berth/box sh -c 'echo out; echo err >&2'`, out: "out\n", err: "err"},
		{line: `$D run --rm berth/box sh -c 'exit 3'`, code: 3},
		{line: `$D run --rm berth/box true`},
		{line: `$D run --rm berth/box false`, code: 1},
		{line: `$D run --rm berth/box nonexistent`, code: 127, err: "nonexistent"},
		{line: `$D run --rm berth/box /etc/passwd`, code: 126, err: "permission denied"},
		{line: `$D run --rm berth/box /tmp`, code: 126},
		{line: `$D run --rm --nonexistent berth/box`, code: 125, err: "nonexistent"},
		{line: `$D run --rm --init berth/box sh -c 'kill -9 $$'`, code: 137},
		{line: `printf 'a\nb\n' | $D run --rm -i berth/box wc -l`, out: "2\n"},
		{line: `printf x | $D run --rm berth/box cat`, out: ""},
		{line: `$D run --rm -a stderr berth/box sh -c 'echo out; echo err >&2'`, out: "", err: "err"},
		{line: `$D run --rm --entrypoint /bin/echo berth/box one two`, out: "one two\n"},
		{line: `$D run -d --name bg berth/box sleep 100 | wc -c`, out: "65\n"},
		{line: `$D run --name bg berth/box true`, code: 125, err: `Conflict. The container name "/bg" is already in use`},
		{line: `$D rm -f bg`, out: "bg\n"},
		{line: `$D create --name made berth/box echo later | wc -c`, out: "65\n"},
		{line: `$D inspect -f '{{.State.Status}}' made`, out: "created\n"},
		{line: `$D start -a made`, out: "later\n"},
		{line: `$D start made`, out: "made\n"},
		{line: `$D wait made`, out: "0\n"},
		{line: `$D rm made`, out: "made\n"},
		{line: `head -c 3000000 /dev/zero | $D run --rm -i berth/box wc -c`, out: "3000000\n"},
		{line: `$D run --rm berth/box head -c 3000000 /dev/zero | wc -c`, out: "3000000\n"},
		{line: `$D run --rm --cidfile cid.$$ berth/box true && wc -c <cid.$$`, out: "64\n"},
		{line: `$D run --rm --pull never berth/box:nonexistent true`, code: 125, err: "No such image"},
		{line: `$D run --rm --init --name ended berth/box sh -c 'touch /up; exec sleep 100' & p=$!; ` +
			`until $D exec ended test -f /up 2>/dev/null; do sleep 0.05; done; kill -TERM $p; wait $p; echo $?`, out: "143\n"},
	}
}

func environmentSteps() []step {
	return []step{
		{line: `$D run --rm -e A=1 -e B berth/box sh -c 'echo $A-$B'`, out: "1-\n"},
		{line: `B=from-host $D run --rm -e B berth/box sh -c 'echo $B'`, out: "from-host\n"},
		{line: `printf 'C=3\n# note\nD=four words here\n' >envs; $D run --rm --env-file envs berth/box sh -c 'echo $C $D'`, out: "3 four words here\n"},
		{line: `$D run --rm -w /tmp berth/box pwd`, out: "/tmp\n"},
		{line: `$D run --rm -w /made/here berth/box pwd`, out: "/made/here\n"},
		{line: `$D run --rm -u 1000:100 berth/box id -u`, out: "1000\n"},
		{line: `$D run --rm -u nobody berth/box id -un`, out: "nobody\n"},
		{line: `$D run --rm -u nonexistent berth/box id`, code: 125, err: "nonexistent"},
		{line: `$D run --rm -u 1234 berth/box sh -c 'id -u; id -g'`, out: "1234\n0\n"},
		{line: `$D run --rm --group-add 77 berth/box id -G`, out: "~\\b77\\b"},
		{line: `$D run --rm -h boat berth/box hostname`, out: "boat\n"},
		{line: `$D run --rm -h boat berth/box sh -c 'grep -c boat /etc/hosts; cat /etc/hostname'`, out: "1\nboat\n"},
		{line: `$D run --rm berth/box sh -c 'echo $PATH; echo $HOME'`, out: "~/bin.*\n/root\n"},
		{line: `$D run --rm berth/box sh -c 'hostname' | wc -c`, out: "13\n"},
		{line: `$D run --rm -l a=1 --label b=2 --name lab -d berth/box sleep 100 | wc -c; $D inspect -f '{{.Config.Labels.a}}{{.Config.Labels.b}}' lab`, out: "65\n12\n"},
		{line: `$D ps -q --filter label=a=1 | wc -l`, out: "1\n"},
		{line: `$D run --rm --add-host x:1.2.3.4 berth/box grep x /etc/hosts`, out: "~1\\.2\\.3\\.4\\s+x"},
		{line: `$D run --rm --dns 9.9.9.9 berth/box cat /etc/resolv.conf`, out: "~nameserver 9\\.9\\.9\\.9"},
		{line: `$D run --rm --ulimit nofile=123:456 berth/box sh -c 'ulimit -n; ulimit -Hn'`, out: "123\n456\n"},
		{line: `$D run --rm --init berth/box ps -o pid,args | grep -c sleep`, code: 1, out: "0\n"},
		{line: `$D run --rm --init berth/box sh -c 'echo $$' | grep -vx 1 | wc -l`, out: "1\n"},
	}
}

func isolationSteps() []step {
	return []step{
		{line: `$D run --rm berth/box sh -c 'echo $$'`, out: "1\n"},
		{line: `$D run --rm berth/box sh -c 'ps -o pid= | wc -l'`, out: "~^[23]\n$"},
		{line: `$D run --rm --read-only berth/box touch /x`, code: 1, err: "read-only"},
		{line: `$D run --rm --read-only --tmpfs /scratch berth/box touch /scratch/x`},
		{line: `$D run --rm --tmpfs /scratch:size=1m berth/box dd if=/dev/zero of=/scratch/x bs=1M count=3`, code: 1, err: "no space"},
		{line: `$D run --rm berth/box grep -i capeff /proc/self/status`, out: "~00000000a80425fb"},
		{line: `$D run --rm --cap-drop ALL berth/box grep -i capeff /proc/self/status`, out: "~0000000000000000"},
		{line: `$D run --rm --cap-add NET_ADMIN berth/box grep -i capeff /proc/self/status`, out: "~00000000a80435fb"},
		{line: `$D run --rm --cap-drop ALL --cap-add CHOWN berth/box grep -i capeff /proc/self/status`, out: "~0000000000000001"},
		{line: `$D run --rm berth/box grep -i -E 'capinh|capamb' /proc/self/status`, out: "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n"},
		{line: `$D run --rm -u 1000 berth/box grep -i capeff /proc/self/status`, out: "~0000000000000000"},
		{line: `$D run --rm berth/box grep Seccomp: /proc/self/status`, out: "Seccomp:\t2\n"},
		{line: `$D run --rm --security-opt seccomp=unconfined berth/box grep Seccomp: /proc/self/status`, out: "Seccomp:\t0\n"},
		{line: `$D run --rm --privileged berth/box grep Seccomp: /proc/self/status`, out: "Seccomp:\t0\n"},
		{line: `$D run --rm --security-opt no-new-privileges berth/box grep NoNewPrivs /proc/self/status`, out: "NoNewPrivs:\t1\n"},
		{line: `$D run --rm berth/box mount -t tmpfs x /mnt`, code: 1},
		{line: `$D run --rm --privileged berth/box sh -c 'mount -t tmpfs x /mnt && echo mounted'`, out: "mounted\n"},
		{line: `$D run --rm berth/box sh -c 'ls -A /sys/firmware /proc/acpi 2>/dev/null | grep -v : | grep -c .'`, code: 1, out: "0\n"},
		{line: `$D run --rm berth/box sh -c 'echo 1 > /proc/sys/kernel/panic'`, code: 1, err: "read-only"},
		{line: `$D run --rm berth/box sh -c 'mknod /tmp/d b 7 0 && cat /tmp/d'`, code: 1, err: "not permitted"},
		{line: `$D run --rm berth/box sh -c 'ls /dev | sort | tr "\n" " "'`, out: "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "},
		{line: `$D run --rm --device /dev/null:/dev/mine berth/box sh -c 'echo x >/dev/mine && echo ok'`, out: "ok\n"},
		{line: `$D run --rm berth/box sh -c 'ls -1 /proc/self/fd | wc -l'`, out: "~^[3-5]\n$"},
		{line: `$D run --rm --pid host berth/box sh -c '[ $$ -gt 1 ] && echo host'`, out: "host\n"},
		{line: `$D run --rm --sysctl net.ipv4.ip_unprivileged_port_start=99 berth/box cat /proc/sys/net/ipv4/ip_unprivileged_port_start`, out: "99\n"},
		{line: `$D run --rm --shm-size 1m berth/box df -k /dev/shm`, out: "~ 1024 "},
		{line: `$D run -d --name ipc1 --ipc shareable berth/box sh -c 'echo shared >/dev/shm/f; touch /up; sleep 100' && $D exec ipc1 sh -c 'until test -f /up; do sleep 0.01; done'`, out: "~^[0-9a-f]{64}\n$"},
		{line: `$D run --rm --ipc container:ipc1 berth/box cat /dev/shm/f; $D rm -f ipc1`, out: "shared\nipc1\n"},
	}
}

func fileSteps() []step {
	return []step{
		{line: `mkdir -p src && echo data >src/f && $D run --rm -v $DIR/src:/in berth/box cat /in/f`, out: "data\n"},
		{line: `$D run --rm -v $DIR/src:/in:ro berth/box touch /in/g`, code: 1, err: "read-only"},
		{line: `$D run --rm -v $DIR/src:/in berth/box touch /in/made && ls src`, out: "f\nmade\n"},
		{line: `rm src/made; $D run --rm --mount type=bind,source=$DIR/src,target=/in,readonly berth/box cat /in/f`, out: "data\n"},
		{line: `$D run --rm --mount type=bind,source=$DIR/missing,target=/in berth/box true`, code: 125, err: "bind source path does not exist"},
		{line: `$D run --rm -v $DIR/newdir:/in berth/box touch /in/x && ls newdir`, out: "x\n"},
		{line: `$D run --rm -v vol1:/v berth/box sh -c 'echo kept >/v/f'`},
		{line: `$D run --rm -v vol1:/v berth/box cat /v/f`, out: "kept\n"},
		{line: `$D volume ls -q`, out: "~vol1"},
		{line: `$D volume inspect -f '{{.Driver}} {{.Scope}}' vol1`, out: "local local\n"},
		{line: `$D run --rm -v vol2:/etc berth/box grep -c root /etc/passwd`, out: "1\n"},
		{line: `$D run -d --name user -v vol1:/v berth/box sleep 100 | wc -c; $D volume rm vol1`, code: 1, out: "65\n", err: "volume is in use"},
		{line: `$D rm -f user; $D volume rm vol1 vol2`, out: "user\nvol1\nvol2\n"},
		{line: `$D run --rm -v /anonymous berth/box touch /anonymous/x && $D volume ls -q | wc -l`, out: "0\n"},
		{line: `$D run --rm --mount type=tmpfs,target=/t,tmpfs-size=1m berth/box df -k /t`, out: "~ 1024 "},
		{line: `$D run -d --name unnamed -v /x berth/box sleep 100 | wc -c; $D volume ls -q --filter label=com.docker.volume.anonymous | wc -c; $D rm -fv unnamed`, out: "65\n65\nunnamed\n"},
		{line: `$D run --rm --volumes-from nonexistent berth/box true`, code: 125, err: "nonexistent"},
		{line: `$D run -d --name giver -v /shared berth/box sh -c 'echo s >/shared/f; sleep 100' | wc -c; $D exec giver sh -c 'until test -s /shared/f; do sleep 0.01; done'; $D run --rm --volumes-from giver berth/box cat /shared/f`, out: "65\ns\n"},
	}
}

func networkSteps() []step {
	return []step{
		{line: `$D run --rm berth/box sh -c 'ip addr show eth0 | grep -c "inet "'`, out: "1\n"},
		{line: `$D run --rm berth/box sh -c 'ping -c 1 -W 60 $(ip route | sed -n "s/default via \([0-9.]*\).*/\1/p") >/dev/null && echo up'`, out: "up\n"},
		{line: `$D run --rm --network none berth/box sh -c 'ip link | grep -c ^[0-9]'`, out: "1\n"},
		{line: `$D run --rm --network host berth/box hostname`, out: "~" + regexp.QuoteMeta(hostName()) + "\n"},
		{line: `[ "$($D run --rm --network host berth/box readlink /proc/self/ns/net)" = "$(readlink /proc/self/ns/net)" ] && echo same`, out: "same\n"},
		{line: `$D run -d --name srv berth/box sh -c 'echo answer | nc -l -p 80; sleep 100' | wc -c; until $D exec srv sh -c 'cat /proc/net/tcp /proc/net/tcp6 | grep -q ":0050 .* 0A "' 2>/dev/null; do sleep 0.05; done`, out: "65\n"},
		{line: `$D run --rm --network container:srv berth/box nc 127.0.0.1 80 </dev/null`, out: "answer\n"},
		{line: `$D run -d --name srv2 berth/box sh -c 'echo two | nc -l -p 80; sleep 100' | wc -c; until $D exec srv2 sh -c 'cat /proc/net/tcp /proc/net/tcp6 | grep -q ":0050 .* 0A "' 2>/dev/null; do sleep 0.05; done`, out: "65\n"},
		{line: `$D run --rm berth/box nc $($D inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' srv2) 80 </dev/null`, out: "two\n"},
		{line: `$D network ls --format '{{.Name}} {{.Driver}}' | sort`, out: "bridge bridge\nhost host\nnone null\n"},
		{line: `$D network inspect -f '{{.Driver}}' bridge`, out: "bridge\n"},
		{line: `$D run --rm --network nonexistent berth/box true`, code: 125, err: "nonexistent"},
		{line: `$D run --rm --mac-address 02:00:00:00:00:77 berth/box ip link show eth0`, out: "~02:00:00:00:00:77"},
	}
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

func lifeSteps() []step {
	return []step{
		{line: `$D run -d --name cc berth/box sh -c 'trap "exit 9" TERM; touch /up; while :; do sleep 0.1; done' | wc -c; $D exec cc sh -c 'until test -f /up; do sleep 0.01; done'`, out: "65\n"},
		{line: `$D ps --format '{{.Names}} {{.Image}} {{.Command}}' --no-trunc`, out: "~^cc berth/box .sh -c"},
		{line: `$D pause cc`, out: "cc\n"},
		{line: `$D inspect -f '{{.State.Status}} {{.State.Paused}}' cc`, out: "paused true\n"},
		{line: `$D exec cc true`, code: 1, err: "paused"},
		{line: `$D unpause cc`, out: "cc\n"},
		{line: `$D stop cc`, out: "cc\n"},
		{line: `$D inspect -f '{{.State.Status}} {{.State.ExitCode}}' cc`, out: "exited 9\n"},
		{line: `$D start cc`, out: "cc\n"},
		{line: `$D restart cc`, out: "cc\n"},
		{line: `$D inspect -f '{{.State.Status}}' cc`, out: "running\n"},
		{line: `$D kill -s USR1 cc; $D kill cc`, out: "cc\ncc\n"},
		{line: `$D wait cc`, out: "~^(137|138)\n$"},
		{line: `$D kill cc 2>&1 | grep -o 'cannot kill\|is not running'`, out: "cannot kill\nis not running\n"},
		{line: `$D rename cc dd`},
		{line: `$D inspect -f '{{.Name}}' dd`, out: "/dd\n"},
		{line: `$D rm dd`, out: "dd\n"},
		{line: `$D rm dd`, code: 1, err: "No such container: dd"},
		{line: `$D run -d --name deaf berth/box sh -c 'trap "" TERM; touch /up; while :; do sleep 0.2; done' | wc -c; $D exec deaf sh -c 'until test -f /up; do sleep 0.01; done'; $D stop -t 1 deaf; $D wait deaf`, out: "65\ndeaf\n137\n"},
		{line: `$D run -d --name live berth/box sleep 100 | wc -c; $D rm live`, code: 1, out: "65\n", err: "running"},
		{line: `$D rm -f live`, out: "live\n"},
		{line: `$D run -d --restart on-failure:2 --name again berth/box sh -c 'exit 4' | wc -c`, out: "65\n"},
		{line: `for i in $(seq 500); do [ "$($D inspect -f '{{.RestartCount}} {{.State.Status}}' again)" = "2 exited" ] && echo ok && break; sleep 0.2; done`, out: "ok\n"},
		{line: `$D run -d --restart always --name stays berth/box sleep 100 | wc -c; $D stop stays; $D inspect -f '{{.State.Status}}' stays`, out: "65\nstays\nexited\n"},
		{line: `$D run --rm -d --name gone berth/box true | wc -c; while $D inspect gone >/dev/null 2>&1; do sleep 0.05; done; $D inspect gone`, code: 1, out: "~^65\n", err: "no such"},
		{line: `$D stop nonexistent`, code: 1, err: "No such container: nonexistent"},
		{line: `$D update --memory 64m --memory-swap 64m deaf`, out: "deaf\n"},
		{line: `$D inspect -f '{{.HostConfig.Memory}}' deaf`, out: "67108864\n"},
	}
}

func lookingSteps() []step {
	return []step{
		{line: `$D run -d --name one berth/box sleep 100 | wc -c`, out: "65\n"},
		{line: `$D run --name two berth/box sh -c 'exit 2'`, code: 2},
		{line: `$D ps --format '{{.Names}}'`, out: "one\n"},
		{line: `$D ps -a --format '{{.Names}}'`, out: "two\none\n"},
		{line: `$D ps -a --filter exited=2 --format '{{.Names}}'`, out: "two\n"},
		{line: `$D ps -a --filter status=running --format '{{.Names}}'`, out: "one\n"},
		{line: `$D ps -a --filter name=tw --format '{{.Names}}'`, out: "two\n"},
		{line: `$D ps -l --format '{{.Names}}'`, out: "two\n"},
		{line: `$D ps -a --filter name=two --format '{{.Status}}'`, out: "~^Exited \\(2\\) "},
		{line: `$D ps --filter nonsense=1`, code: 1, err: "nonsense"},
		{line: `$D ps -aq --no-trunc | head -1 | wc -c`, out: "65\n"},
		{line: `$D inspect -f '{{.Config.Image}} {{.State.Running}} {{.HostConfig.NetworkMode}}' one`, out: "~^berth/box true (default|bridge)\n$"},
		{line: `$D inspect nonexistent`, code: 1, out: "~^\\[\\]\n", err: "No such object: nonexistent"},
		{line: `$D top one`, out: "~PID.*sleep 100"},
		{line: `$D stats --no-stream --format '{{.Name}} {{.MemPerc}} {{.PIDs}}' one`, out: "~^one [0-9.]+% [1-9]"},
		{line: `$D version --format '{{.Server.Os}}/{{.Server.Arch}} {{.Server.APIVersion}}'`, out: "~^linux/\\w+ 1\\.\\d+\n$"},
		{line: `$D info --format '{{.ContainersRunning}} {{.Containers}} {{.Driver}}'`, out: "~^1 2 overlay"},
		{line: `$D system df --format '{{.Type}}' | sort | head -2`, out: "~Build Cache|Containers"},
		{line: `sleep 1; $D events --since 1 --until $(date +%s) --filter container=two --format '{{.Action}}' | head -2`, out: "create\nattach\n"},
		{line: `$D events --since 1 --until $(date +%s) --filter container=two --filter event=die --format '{{index .Actor.Attributes "exitCode"}}' | tail -1`, out: "2\n"},
		{line: `$D diff two`, out: ""},
		{line: `$D container ls -q | wc -l`, out: "1\n"},
		{line: `$D port one`, out: ""},
	}
}

func logSteps() []step {
	return []step{
		{line: `$D run --name ll berth/box sh -c 'for i in 1 2 3; do echo out$i; echo err$i >&2; done' 2>/dev/null`, out: "out1\nout2\nout3\n"},
		{line: `$D logs ll 2>/dev/null`, out: "out1\nout2\nout3\n"},
		{line: `$D logs ll 2>&1 >/dev/null`, out: "err1\nerr2\nerr3\n"},
		{line: `$D logs --tail 2 ll 2>&1 | wc -l`, out: "2\n"},
		{line: `$D logs -t ll 2>/dev/null | head -1`, out: "~^20\\d\\d-\\d\\d-\\d\\dT[0-9:.]+Z out1\n"},
		{line: `$D logs --since 1h ll 2>/dev/null | wc -l`, out: "3\n"},
		{line: `$D logs --until 1h ll 2>/dev/null | wc -l`, out: "0\n"},
		{line: `$D logs nonexistent`, code: 1, err: "No such container: nonexistent"},
		{line: `$D run -d --name ff berth/box sh -c 'for i in 1 2 3; do echo $i; sleep 0.2; done' | wc -c; $D logs -f ff`, out: "65\n1\n2\n3\n"},
		{line: `$D run --name none --log-driver none berth/box echo x; $D logs none`, code: 1, out: "x\n", err: "logging driver"},
		{line: `$D run --name long berth/box sh -c 'head -c 100000 /dev/zero | tr "\0" x; echo' | wc -c; $D logs long | wc -c`, out: "100001\n100001\n"},
		{line: `$D run --name partial berth/box printf 'no newline'; echo; $D logs partial`, out: "no newline\nno newline"},
	}
}

func execSteps() []step {
	return []step{
		{line: `$D run -d --name ee -e BASE=1 -w /tmp berth/box sleep 100 | wc -c`, out: "65\n"},
		{line: `$D exec ee sh -c 'echo $BASE; pwd'`, out: "1\n/tmp\n"},
		{line: `$D exec -e X=2 -w / -u 1000 ee sh -c 'echo $X; pwd; id -u'`, out: "2\n/\n1000\n"},
		{line: `$D exec ee sh -c 'exit 5'`, code: 5},
		{line: `$D exec ee nonexistent`, code: 127, out: "~^OCI runtime exec failed: [^\n]*nonexistent[^\n]*\n$"},
		{line: `$D exec ee /etc/passwd`, code: 126, out: "~^OCI runtime exec failed: [^\n]*permission denied[^\n]*\n$"},
		{line: `echo in | $D exec -i ee cat`, out: "in\n"},
		{line: `$D exec ee sh -c 'echo out; echo err >&2'`, out: "out\n", err: "err"},
		{line: `$D exec -d ee sh -c 'echo made >/tmp/flag'; $D exec ee sh -c 'until test -s /tmp/flag; do sleep 0.01; done; cat /tmp/flag'`, out: "made\n"},
		{line: `$D exec ee sh -c 'grep -i -E "capeff|seccomp:" /proc/self/status'`, out: "CapEff:\t00000000a80425fb\nSeccomp:\t2\n"},
		{line: `$D exec --privileged ee grep -i capeff /proc/self/status`, out: "~CapEff:\t0000[01]"},
		{line: `$D exec nonexistent true`, code: 1, err: "No such container: nonexistent"},
		{line: `head -c 2000000 /dev/zero | $D exec -i ee wc -c`, out: "2000000\n"},
		{line: `$D exec ee ps -o args= | grep -c sleep`, out: "1\n"},
		{line: `$D kill ee && $D wait ee`, out: "ee\n137\n"},
		{line: `$D exec ee true`, code: 1, err: "is not running"},
	}
}

func copySteps() []step {
	return []step{
		{line: `$D run -d --name kk berth/box sleep 100 | wc -c; mkdir -p tree/sub; echo a >tree/a; echo b >tree/sub/b; ln -sf a tree/l`, out: "65\n"},
		{line: `$D cp tree kk:/tmp/ && $D exec kk sh -c 'cat /tmp/tree/a /tmp/tree/sub/b; readlink /tmp/tree/l'`, out: "a\nb\na\n"},
		{line: `rm -rf back; $D cp kk:/tmp/tree back && cat back/a back/sub/b && readlink back/l`, out: "a\nb\na\n"},
		{line: `$D cp kk:/etc/passwd - | tar t`, out: "passwd\n"},
		{line: `tar c -C tree a | $D cp - kk:/var && $D exec kk cat /var/a`, out: "a\n"},
		{line: `$D cp kk:/nonexistent .`, code: 1, err: "nonexistent"},
		{line: `$D cp tree/a nonexistent:/x`, code: 1, err: "No such container"},
		{line: `$D exec kk ln -s /etc /tmp/evil; echo x >x; $D cp x kk:/tmp/evil/x && $D exec kk cat /etc/x; ls /etc/x`, code: 2, out: "x\n"},
		{line: `$D exec kk ln -sfn ../../../../../../etc /tmp/up; $D cp kk:/tmp/up/os-release - | tar xO`, out: "~berth-box"},
		{line: `$D stop kk && $D cp kk:/etc/group - | tar t`, out: "kk\ngroup\n"},
		{line: `$D diff kk | sort | head -3`, out: "~[AC] /etc"},
	}
}

func imageSteps() []step {
	return []step{
		{line: `$D images --format '{{.Repository}}:{{.Tag}}' berth/box`, out: "berth/box:latest\n"},
		{line: `$D tag berth/box mine:1 && $D images -q mine:1 | wc -l`, out: "1\n"},
		{line: `$D run --rm mine:1 echo ok`, out: "ok\n"},
		{line: `$D inspect -f '{{.Os}} {{.Architecture}}' --type image mine:1`, out: "~^linux \\w+\n$"},
		{line: `$D history -q mine:1 | wc -l`, out: "~^[1-9]"},
		{line: `$D rmi mine:1`, out: "Untagged: mine:1\n"},
		{line: `$D rmi nonexistent`, code: 1, err: "No such image: nonexistent"},
		{line: `$D tag nonexistent x`, code: 1, err: "No such image: nonexistent"},
		{line: `$D tag berth/box UPPER`, code: 1, err: "must be lowercase"},
		{line: `$D pull UPPER`, code: 1, err: "must be lowercase"},
		{line: `$D run --rm 'bad image' true`, code: 125, err: "invalid reference format"},
		{line: `$D tag berth/box sv:1 && $D save sv:1 -o box.tar && $D rmi sv:1 && $D load -i box.tar`, out: "~Loaded image: sv:1"},
		{line: `$D run --rm sv:1 echo loaded && $D rmi sv:1`, out: "loaded\nUntagged: sv:1\n"},
		{line: `$D save berth/box | $D load`, out: "~Loaded image: berth/box:latest"},
		{line: `$D create --name xx berth/box true | wc -c; $D export xx | tar t | grep -c ^bin/sh$`, out: "65\n1\n"},
		{line: `$D export xx | $D import - fromx:1 | grep -c sha256; $D run --rm fromx:1 /bin/echo imported`, out: "1\nimported\n"},
		{line: `$D rmi fromx:1 | grep -c Deleted`, out: "~^[1-9]"},
		{line: `for n in 1 2 3; do $D export xx | $D import -c "LABEL n=$n" - age:$n >/dev/null; done; $D images -q -f before=age:2 -f before=age:3 age | wc -l`, out: "1\n"},
		{line: `$D images -f since=age:1 -f since=age:2 --format '{{.Tag}}' age`, out: "3\n"},
		{line: `$D images -f label=n=2 --format '{{.Repository}}:{{.Tag}}'`, out: "age:2\n"},
		{line: `$D images -f reference='age:[12]' --format '{{.Tag}}' | sort`, out: "1\n2\n"},
		{line: `$D images -f before=nonexistent`, code: 1, err: "No such image: nonexistent"},
		{line: `$D tag age:1 other:1; $D rmi $($D images -q other:1)`, code: 1, err: "(must be forced) - image is referenced in multiple repositories"},
		{line: `$D rmi age:1; $D create --name uses other:1 true | wc -c; $D rmi other:1`, code: 1, out: "Untagged: age:1\n65\n",
			err: "(must force) - container"},
		{line: `$D rmi -f other:1 | sed 's/:[0-9a-f]*$//'; $D rm uses; $D rmi age:2 age:3 | cut -d: -f1 | sort -u`,
			out: "~^Untagged: other:1\nuses\nDeleted\nUntagged\n$|Untagged: other\nDeleted: sha256\nuses\nDeleted\nUntagged\n$"},
	}
}

func pruneSteps() []step {
	return []step{
		{line: `$D run --name p1 berth/box true; $D run -d --name p2 berth/box sleep 100 | wc -c`, out: "65\n"},
		{line: `$D container prune -f | grep -c '^[0-9a-f]\{64\}$'`, out: "1\n"},
		{line: `$D ps -a --format '{{.Names}}'`, out: "p2\n"},
		{line: `$D volume create pv; $D volume prune -f $($D volume prune --help | grep -q -- --all && echo -a) | grep -c pv`, out: "pv\n1\n"},
		{line: `$D image prune -f | tail -1`, out: "~Total reclaimed space"},
		{line: `$D system prune -f | tail -1`, out: "~Total reclaimed space"},
	}
}

// TestStartsTheDaemonByItself: `berth` needs no daemon to be running.
func TestStartsTheDaemonByItself(t *testing.T) {
	d := harness.Start(t)
	d.Stop()
	if _, err := os.Stat(filepath.Join(d.Repo, "bin/berth")); err != nil {
		t.Skip(err)
	}
	// With a host given, nobody is started: the sentence says what to do.
	d.Shell(d.Berth(), "$D ps").Exits(1).Complains("daemon")
}
