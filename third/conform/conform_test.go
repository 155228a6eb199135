// Package conform holds our forms of other people's packages against the originals: the same input, the same answers.
// Its folder ours is those packages' files by links, under paths that can stand beside the originals'.
package conform

import (
	"os"
	"strings"
	"testing"
)

// TestLinks: the packages that were compared are the ones that are linked.
func TestLinks(t *testing.T) {
	for _, name := range []string{"reference", "digest"} {
		files, err := os.ReadDir("../" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f.Name(), ".go") {
				continue
			}
			link := "ours/" + name + "/" + f.Name()
			if to, err := os.Readlink(link); err != nil || to != "../../../"+name+"/"+f.Name() {
				t.Errorf("%s is a link to %q: %v", link, to, err)
			}
		}
	}
}
