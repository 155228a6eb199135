package e2e

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestImagesAsDocker: what Docker's client prints of images, ours prints, line by line, of the same daemon.
func TestImagesAsDocker(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "docker-registry")
	d := harness.Start(t)
	b := d.Berth()
	var docker harness.Client
	for _, c := range d.Clients() {
		if n, err := strconv.Atoi(strings.TrimPrefix(c.Name, "docker-")); err == nil && n >= 28 {
			docker = c
		}
	}
	if docker.Path == "" {
		t.Skip("no client of Docker 28 or later is here")
	}
	host := registry(t, d.Dir)
	for _, arch := range []string{"amd64", "arm64", "s390x"} {
		putImage(t, host, "app:"+arch, ocispec.Platform{OS: "linux", Architecture: arch}, "vnd.oci.image.manifest.v1")
	}
	d.Must("$D manifest create " + host + "/many:1 " + host + "/app:amd64 " + host + "/app:arm64 " + host + "/app:s390x && $D manifest push -p " + host + "/many:1")
	d.Must("$D pull -q " + host + "/many:1 && $D pull -q --platform linux/arm64 " + host + "/many:1 && $D pull -q " + host + "/app:s390x")
	undated := stock(t) + "/img0:1"
	d.Must("$D pull -q " + undated)
	d.Must("$D tag berth/box two/names:1 && $D run --name c1 --label a=b berth/box true && $D volume create v1")
	d.Must("$D create --name c2 -v v1:/v " + host + "/app:s390x nothing")

	// Both speak the same version, since what the daemon says depends on it.
	version := strings.TrimSpace(d.Shell(docker, "$D version --format '{{.Client.APIVersion}}'").Exits(0).Out)
	// Times pass between two commands, and Docker's tree is a preview in bold type, which measures its columns in bytes.
	ago := regexp.MustCompile(`(Less than a second|About an? \w+|\d+ \w+) ago`)
	colour := regexp.MustCompile("\x1b\\[[0-9;]*m")
	whole := func(text string) string {
		text = strings.ReplaceAll(text, `"HealthStatus":"",`, "") // which Docker has since 29
		var lines []string
		for line := range strings.Lines(colour.ReplaceAllString(ago.ReplaceAllString(text, "some time ago"), "")) {
			line = strings.Join(strings.Fields(line), " ")
			if !strings.HasPrefix(line, "WARNING: This is an experimental feature.") {
				lines = append(lines, strings.ReplaceAll(line, "Info -> U", "Info → U"))
			}
		}
		return strings.TrimRight(strings.Join(lines, "\n"), "\n")
	}
	many := host + "/many:1"
	for _, line := range []string{
		"images", "images -a", "images -q", "images -aq --no-trunc", "images --no-trunc", "images --digests", "images --digests berth/box",
		"images --digests -q", "images berth/box", "images berth/box:latest", "images nothing", "images --format table",
		"images --format '{{.Repository}}@{{.Digest}} {{.Size}} {{.VirtualSize}}' berth/box", "images --format '{{.ID}}: {{.CreatedAt}}'",
		`images --format 'table {{.ID}}\t{{.Tag}}\t{{.CreatedSince}}\t{{.SharedSize}}\t{{.UniqueSize}}' berth/box`,
		"images -f dangling=true", "images -f dangling=false -q", "images -f reference='*/box'", "images -f reference=two/names", "images -f label=a",
		"images -f since=berth/box -q", "images -f before=berth/box -q", "images -f since=nothing", "images -f nope=1",
		"images --tree", "images --tree berth/box", "images --tree -a", "images --tree nothing", "images --tree -f reference='*/box'",
		"images --tree -q", "images --tree --no-trunc", "images --tree --digests", "images --tree --format json",
		"history berth/box", "history --no-trunc berth/box", "history -q " + many, "history -H=false " + many, "history --format json berth/box",
		"history --format '{{.ID}} {{.CreatedAt}} {{.CreatedBy}} {{.Size}} {{.Comment}}' berth/box", "history --platform linux/arm64 " + many,
		"history --platform linux/s390x " + many, "history nothing",
		"image inspect berth/box", "image inspect " + many, "image inspect --platform linux/arm64 " + many, "image inspect --platform linux/s390x " + many,
		"image inspect -f json berth/box " + many, "image inspect nothing berth/box", "inspect berth/box", "inspect --type image nothing",
		"image inspect -f '{{json .Descriptor}}' " + many, "image inspect -f '{{json .Manifests}}' " + many,
		"image inspect -f '{{.Descriptor.Digest}} {{.Descriptor.Platform}} {{.Manifests}}' " + many,
		"image inspect -f '{{.Config.Entrypoint}} {{.Config.Cmd}} {{.Config.Labels}} {{.Config.Volumes}} {{.Config.ExposedPorts}}' berth/box",
		`image inspect -f '{{index .Config.Labels "a"}}{{range .Config.Labels}}x{{end}}|{{json .Config.Labels}}' berth/box`,
		"image inspect -f '{{.Config.User}}|{{.Config.WorkingDir}}|{{.Config.StopSignal}}|{{.Config.OnBuild}}|{{.Variant}}|{{.OsVersion}}' berth/box",
		"image inspect -f '{{.Comment}}|{{.Author}}|{{.Os}}/{{.Architecture}}|{{.Metadata.LastTagTime}}|{{.GraphDriver.Name}}' berth/box",
		"image inspect -f '{{.RepoTags}} {{.RepoDigests}} {{len .RootFS.Layers}}' berth/box", "image inspect -f '{{.Nope}}' berth/box",
		"inspect -f '{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}} {{.State.Health}} {{.HostConfig.Binds}} {{.Mounts}}' c1",
		`inspect -f '{{index .Config.Labels "a"}} {{index .Config.Labels "z"}} {{.Config.Entrypoint}} {{.HostConfig.CapAdd}} {{.NetworkSettings.Ports}}' c1`,
		"inspect -f '{{.HostConfig.PortBindings}} {{.Config.ExposedPorts}} {{.Config.Volumes}} {{json .HostConfig.DNS}}' c2",
		"network inspect -f '{{.Created}} {{.Labels}} {{.Containers}} {{.Options}} {{.IPAM.Options}}' none",
		"volume inspect -f '{{.Labels}} {{.Options}} {{.Status}} {{.UsageData}}' v1",
		"images " + undated, "images --format '{{.CreatedAt}}|{{.CreatedSince}}' " + undated, "image inspect -f '{{.Created}}|{{.Config}}' " + undated,
		"history " + undated, "history --format '{{.CreatedAt}}|{{.CreatedSince}}' " + undated, "images --format '{{.ID}} {{.Containers}}'",
		"image inspect -f '{{.Config}}|{{.RootFS}}|{{.Metadata}}' berth/box", "image inspect -f '{{.Config.ExposedPorts}}{{.Config.Healthcheck}}' berth/box",
		"system df -v --format json", "system df --format json", "system df -v --format '{{json .Images}}'",
		"system df", "system df -v", "system df -v --format '{{json .Volumes}}'",
		"system df -v --format '{{range .Images}}{{.Repository}} {{.Tag}} {{.ID}} {{.Digest}} {{.SharedSize}} {{.UniqueSize}} {{.Size}}{{println}}{{end}}'",
		"system df -v --format '{{range .Containers}}{{.ID}} {{.Image}} {{.Command}} {{.LocalVolumes}} {{.Size}} {{.Names}} {{.State}}{{println}}{{end}}'",
	} {
		words := whole
		if strings.HasPrefix(line, "images") && !strings.Contains(line, "--tree") {
			words = func(text string) string { // Docker has the names of one image in any order
				lines := strings.Split(whole(text), "\n")
				slices.Sort(lines)
				return strings.Join(lines, "\n")
			}
		}
		theirs := d.Shell(docker, "$D "+line)
		ours := d.Shell(b, "export DOCKER_API_VERSION="+version+"; $D "+line)
		// What we have besides stands below.
		out, _, _ := strings.Cut(words(ours.Out), "\n\nSHARED LAYER")
		if want := words(theirs.Out); out != want || ours.Code != theirs.Code || words(ours.Err) != words(theirs.Err) {
			t.Errorf("%s: %s prints (%d)\n%s\n%s\nand berth (%d)\n%s\n%s", line, docker.Name, theirs.Code, want, theirs.Err, ours.Code, out, ours.Err)
		}
	}
}
