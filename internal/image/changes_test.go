package image

import (
	"slices"
	"testing"
)

func TestInstructions(t *testing.T) {
	for _, c := range []struct{ changes, want []string }{
		{nil, nil}, {[]string{"", " \n\t"}, nil}, {[]string{"CMD a"}, []string{"CMD a"}},
		{[]string{"ENV a=b\nUSER me\r\n", "LABEL x=y"}, []string{"ENV a=b", "USER me", "LABEL x=y"}},
		{[]string{"# why\nENV a=b \\\n  # and this\n\n  c=d\nUSER me"}, []string{"ENV a=b   c=d", "USER me"}},
		{[]string{"CMD a \\"}, []string{"CMD a "}}, {[]string{"\\\n\\\nCMD a"}, []string{"CMD a"}},
	} {
		if got := instructions(c.changes); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, wanted %q", c.changes, got, c.want)
		}
	}
}
