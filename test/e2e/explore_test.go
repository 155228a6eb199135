package e2e

import (
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestExplore: what was done in containers is told of the image that was made of them.
func TestExplore(t *testing.T) {
	harness.Need(t)
	d := harness.Start(t)
	b := d.Berth()
	d.Must(`$D run --name one berth/box sh -c 'mkdir /srv; head -c 50000 /dev/urandom >/srv/big; echo a >/srv/small; printf x >"$(printf "/srv/\\033[31m")"' &&
		$D commit one made:1 && $D run --name two made:1 sh -c 'rm /srv/big; echo b >/srv/small; ln -s small /srv/link' && $D commit two made:2`)
	d.Shell(b, `$D image explore made:2`).Exits(0).Shows("made:2", "linux/", "LAYER", "50kB", "/srv/big", "hide")
	d.Shell(b, `$D image explore --layer 3 made:2`).Exits(0).Shows("layer 3", "hides 50kB", "├─ - big (hides 50kB, of layer 2)", "└─ ~ small (0644 0:0, 2B, hides 2B, of layer 2)",
		"+ link -> small (0777 0:0, symlink)")
	d.Shell(b, `$D image explore --path /srv/small made:2`).Prints("layer 2  + /srv/small (0644 0:0, 2B)\nlayer 3  ~ /srv/small (0644 0:0, 2B, hides 2B, of layer 2)\n")
	d.Shell(b, `$D image explore --path /srv --layer 2 made:2`).Exits(0).Shows(`\x1b[31m`)
	d.Shell(b, `$D image explore --path /never made:2`).Prints("No layer has this path.\n")
	d.Shell(b, `$D image explore --format json made:2`).Exits(0).Shows(`"Removed": 1`, `"CreatedBy": "sh -c rm /srv/big`)
	d.Shell(b, `$D images --tree`).Exits(0).Shows("SHARED LAYER", "made:2, made:1")
	d.Shell(b, `$D images --tree made:1 | grep -c SHARED`).Exits(1)
	for line, says := range map[string]string{
		`$D image explore nothing:1`:                     "No such image: nothing:1",
		`$D image explore --layer 9 made:2`:              "there is no layer 9",
		`$D image explore --layer 0 made:2`:              "1 is the bottom one",
		`$D image explore --format yaml made:2`:          "invalid --format",
		`$D image explore --platform linux/s390x made:2`: "does not provide the specified platform",
	} {
		d.Shell(b, line).Exits(1).Complains(says)
	}
}
