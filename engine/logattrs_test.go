package engine

import (
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
)

func TestLogAttributes(t *testing.T) {
	rec := container.Record{ID: strings.Repeat("0123456789abcdef", 4), Name: "web", Config: container.Config{
		Image: "shop:1", ImageID: "sha256:" + strings.Repeat("fedcba9876543210", 4),
		Labels:  container.Map{"tier": "front", "com.example.a": "1", "com.example.b": "<&>"},
		Process: container.Process{Env: []string{"STAGE=prod", "STAGING", "EMPTY=", "X=a=b"}, Cmd: []string{"serve", "-v"}},
	}}
	for _, c := range []struct{ option, value, want string }{
		{"max-file", "3", ``},
		{"labels", "tier", `{"tier":"front"}`},
		{"labels", "none,tier,", `{"tier":"front"}`},
		{"labels", "none", ``},
		{"labels-regex", `^com\.example\.`, `{"com.example.a":"1","com.example.b":"\u003c\u0026\u003e"}`},
		{"env", "STAGE,EMPTY,X,STAGING", `{"EMPTY":"","STAGE":"prod","X":"a=b"}`},
		{"env-regex", "^STAG", `{"STAGE":"prod"}`},
		{"tag", "{{.Name}}/{{.ID}}", `{"tag":"web/0123456789ab"}`},
		{"tag", "{{.ImageName}} {{.ImageID}} {{.Command}}", `{"tag":"shop:1 fedcba987654 serve -v"}`},
		{"tag", "{{.ImageFullID | truncate 0}}", `error`},
		{"tag", "{{truncate .FullID 3 | upper}} {{json .ContainerLabels.tier}}", `{"tag":"012 \"front\""}`},
		{"tag", "{{.Name", `error`},
		{"tag", "{{.Secret}}", `error`},
		{"env-regex", "(", `error`},
		{"labels-regex", "(", `error`},
	} {
		got, err := attributes(rec, map[string]string{c.option: c.value})
		switch {
		case c.want == "error":
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.option) {
				t.Errorf("%s=%s: %s, %v; want an invalid argument that names the option", c.option, c.value, got, err)
			}
		case err != nil || string(got) != c.want:
			t.Errorf("%s=%s: %s, %v; want %s", c.option, c.value, got, err, c.want)
		}
	}
	if _, err := parseLog("json-file", map[string]string{"mode": "non-blocking"}, ""); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a mode we do not have: %v", err)
	}
	if _, err := parseLog("json-file", map[string]string{"mode": "blocking", "tag": "x"}, ""); err != nil {
		t.Error(err)
	}
}
