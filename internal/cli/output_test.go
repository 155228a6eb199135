package cli

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// outputCases are command lines against the made-up data of the fake server.
func outputCases() []string {
	return strings.Split(strings.TrimSpace(`
ps
ps -a
ps -q
ps --no-trunc
ps -s
ps -aq --no-trunc
ps --format json
ps --format '{{json .Names}}'
ps --format '{{.Names}}: {{.Image}}'
ps --format 'table {{.ID}}\t{{.Names}}\t{{.Ports}}'
ps --format 'table {{.Names}}\t{{.Label "com.example.tier"}}'
ps --format '{{.Label "com.example.tier"}}'
ps --format '{{.ID}} {{.Command}} {{.State}} {{.Labels}} {{.Mounts}} {{.LocalVolumes}} {{.Networks}} {{.Size}}'
ps --format '{{upper .Names}} {{lower .State}} {{title .State}} {{truncate .Names 2}} {{pad .Names 1 2}}'
ps --format '{{range split .Names ","}}[{{.}}]{{end}}'
ps --format '{{if eq .State "running"}}up{{else}}down{{end}} {{len .Names}} {{printf "%-8s|" .Names}}'
ps --format '{{with .Labels}}{{.}}{{else}}-{{end}}'
ps --format '{{join (split .Image ":") "/"}}'
ps --format table
container ls
images
images -q
images --digests
images --no-trunc
images -q --no-trunc
images --format json
images --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.Digest}}'
images --format 'table {{.Repository}}\t{{.CreatedSince}}'
images busybox
images -f dangling=true
image ls -a
history busybox
history -q busybox
history --no-trunc busybox
history -H=false --format '{{.ID}} {{.Size}} {{.CreatedBy}}' busybox
history --format json busybox
network ls
network ls -q
network ls --no-trunc
network ls --format json
network ls --format '{{.Name}} {{.Labels}} {{.Internal}} {{.IPv6}} {{.CreatedAt}}'
network rm front
network connect front web
network disconnect -f front web
network create mine
network inspect front
volume ls
volume ls -q
volume ls --format json
volume ls --format '{{.Name}} {{.Driver}} {{.Mountpoint}} {{.Links}} {{.Size}} {{.Label "k"}}'
volume create data
volume rm data
volume inspect data
volume inspect -f '{{.Mountpoint}}' data
inspect web
inspect -f '{{.State.Pid}}' web
inspect -f '{{.Id}} {{.ID}}' web
inspect -f '{{json .State}}' web
inspect -f '{{json .Config.Env}}' web
inspect -f '{{range .Mounts}}{{.Source}}:{{.Destination}} {{end}}' web
inspect -f '{{range $p, $c := .NetworkSettings.Ports}}{{$p}}={{(index $c 0).HostPort}} {{end}}' web
inspect -f '{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}' web
inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web
inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.NanoCPUs}}' web
inspect -f '{{.Config.Cmd}} {{.Args}} {{.HostConfig.Binds}}' web
inspect -f '{{.Config.Labels}}' web
inspect -f '{{index .Config.Labels "com.example.tier"}}' web
inspect -f '{{if eq .HostConfig.Memory 1048576}}yes{{end}} {{eq .Name "/web"}} {{ne .Driver "x"}}' web
inspect -f '{{len .Args}} {{slice .Id 0 4}} {{not .State.Running}} {{and .State.Running .Name}}' web
inspect -f '{{println .Name}}{{print .Name 1 2}}' web
inspect -f '{{- .Name -}} x' web
inspect --type container web
inspect --format json web
inspect missing
inspect --type foo web
inspect web missing
container inspect -f '{{.Name}}' web
image inspect busybox
image inspect -f '{{.Architecture}} {{.Config.Cmd}}' busybox
diff web
top web
top web -o pid
port web
port web 80
port web 443/tcp
port web 99
rename web new
rename web ''
pause web missing
unpause web
stop web
stop -t 3 web
stop -s INT web
restart web
kill web
kill -s HUP web missing
rm web
rm -f web missing
rm missing
rmi busybox
rmi missing
rmi -f missing
tag busybox a/b:c
tag busybox A/B
update -m 1g web
update web
update --restart always --cpus 1.5 web
wait web
wait web missing
start web
start missing
start -a web
start -a web db
start -i web
attach web
exec web true
exec -e A=1 -w /tmp -u 0 --privileged web sh -c 'exit 5'
exec -d web true
logs web
logs -t --tail 5 --since 2020-01-01 web
logs missing
run busybox
run --rm busybox true
run -d busybox
run -a stdout busybox
run -d -a stdout busybox
run -it busybox
run -d --name x -p 80:80 --network host busybox
run missing
create busybox
container prune -f
image prune -f
image prune -af
volume prune -f
volume prune -af --filter label=a
network prune -f
system prune -f
system prune -af --volumes
container prune
system prune
events --format '{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}'
events --format json
events --until 1s
events
system df
system df --format json
system df --format '{{.Type}} {{.TotalCount}} {{.Size}} {{.Reclaimable}}'
attach missing
exec missing true
exec -it web sh
version --format '{{.Server.Version}} {{.Server.Os}}/{{.Server.Arch}}'
version -f '{{json .Server.Components}}'
stats --no-stream web
stats --no-stream --format json web
stats --no-stream --format '{{.Container}} {{.CPUPerc}} {{.MemUsage}}' web
stats --no-stream --no-trunc web
stats --no-stream missing
cp web:/x nowhere/at/all
cp a b
cp web:a web:b
cp '' web:/x
cp nosuchfile web:/x
ps --format '{{.Foo'
ps --format '{{.Foo}}'
inspect -f '{{.Foo}}' web
inspect -f '{{nosuch .}}' web
ps -f foo
ps x
rm
logs
exec web
images a b
port
rename a
rnu
container foo
network crate
--nosuch ps
-H tcp://x -H tcp://y ps
ps --nosuch
run
run --nosuch
login -u a --password-stdin --password b
login --password-stdin
logout
logout example.com
pull A/B
pull -a busybox:latest
push a@sha256:ab33eacc8251e3807b85bb6dba570e4698c3998eca6f0fc2ccb60575a563ea74
save
export
import
load -i nosuchfile
commit
`), "\n")
}

var (
	clock = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} [A-Z]+`)
	stamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)`)
	home  = regexp.MustCompile(`/tmp/\S*?(Test\w+)/\d+`)
	sock  = regexp.MustCompile(`/tmp/berth-cli-\d+/api.sock`)
)

// told is what a command line printed and how it ended, without what differs from day to day.
func told(o outcome) string {
	text := fmt.Sprintf("status %d\n", o.code)
	if o.out != "" {
		text += "--- stdout\n" + o.out
	}
	if o.err != "" {
		text += "--- stderr\n" + o.err
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	text = stamp.ReplaceAllString(text, "STAMP")
	text = clock.ReplaceAllString(text, "CLOCK")
	text = sock.ReplaceAllString(text, "SOCKET")
	return home.ReplaceAllString(text, "HOME")
}

// printsOtherwise are the command lines at which Berth differs on purpose, with what it prints.
func printsOtherwise() map[string]string {
	return map[string]string{
		// A newer column.
		"ps --format json": `"HealthStatus":""`,
		// The digest of an image that has no tag is known, so it is shown.
		`images --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.Digest}}'`: "quay.io/x/y:<none> 333333333333 7B sha256:cd33",
		"images --format json": `"Digest":"\u003cnone\u003e","ID":"111111111111"`,
		// Both spellings of a field work, also together.
		`inspect -f '{{.Id}} {{.ID}}' web`: fakeID + " " + fakeID,
		`inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.NanoCPUs}}' web`: "1048576 500000000 500000000",
		// There is no swarm to ask.
		"inspect missing":        "status 1\n--- stdout\n[]\n--- stderr\nError: No such object: missing\n",
		"inspect web missing":    "Error: No such object: missing\n",
		"inspect --type foo web": `unknown type: "foo"`,
		"tag busybox A/B":        `error parsing reference: "A/B" is not a valid repository/tag`,
		// Docker's client crashes.
		"run -a stdout busybox": "status 3\n--- stdout\nhello\nbye\n",
		// The server's old names for type, action and image are gone since API 1.52.
		"events --format json": `{"Type":"container","Action":"start"`,
		// Docker names its own types.
		"ps --format '{{.Foo}}'":    `failed to execute template: template: :1:2: executing "" at <.Foo>: `,
		"inspect -f '{{.Foo}}' web": `template parsing error: template: :1:2: executing "" at <.Foo>: map has no entry for key "Foo"`,
		"rnu":                       "\nDid you mean:\n  berth run\n",
		"network crate":             "\nDid you mean:\n  berth network create\n",
		"-H tcp://x -H tcp://y ps":  "specify only one -H",
	}
}

// What Docker's users script against is what Docker prints, and with which status it ends.
func TestCommandsPrintWhatDockerPrints(t *testing.T) {
	path := testdata(t, "output.golden")
	t.Setenv("TZ", "UTC")
	t.Chdir(t.TempDir())
	s := newFakeServer(t)
	g := readGolden(t, path)
	for _, line := range outputCases() {
		args := words(line)
		if *update {
			needDocker(t)
			g.record(line, told(s.docker("", nil, args...)))
		}
		got := told(s.berth("", nil, args...))
		if ourWay, ok := printsOtherwise()[line]; ok {
			if !strings.Contains(got, ourWay) {
				t.Errorf("berth %s: want %q in\n%s", line, ourWay, got)
			}
			continue
		}
		if want := ours.Replace(g.parts[line]); got != want {
			t.Errorf("berth %s\n%s", line, diffText(want, got))
		}
	}
	if *update {
		g.write(t)
	}
}
