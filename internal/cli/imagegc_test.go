package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/berthapi"
)

func TestCollectedText(t *testing.T) {
	c := &berthapi.Collection{Size: 100e9, Free: 10e9, High: "85% used", Low: "20GB free", MinAge: 3600, Over: true, Excess: 10e9,
		Images: []berthapi.CollectionImage{
			{ID: "sha256:0123456789abcdef", Names: []string{"a:1", "a:2"}, Size: 3e6, Unique: 2e6, Used: time.Now().Add(-48 * time.Hour), Take: true},
			{ID: "sha256:fedcba9876543210", Size: 1e6, Unique: 1e6, Used: time.Now().Add(-2 * time.Hour), Keep: "it is pinned", Pinned: true},
		}}
	for _, test := range []struct{ got, want string }{
		{collected(c, true), "0123456789ab  a:1,a:2  2MB, last used 2 days ago\n1 images would be removed.\n"},
		{collected(c, false), "0 images removed, 0B came free.\nThe disk is still 10GB above the low water mark, and no image is left that may be collected.\n"},
		{collected(&berthapi.Collection{High: "1% used"}, true), "Nothing would be removed: the disk is not above the low water mark.\n"},
		{collected(&berthapi.Collection{}, true), noMarks},
		{whyHead(c), "Disk: 90GB of 100GB used, 10GB free.\nImages are collected above 85% used until 20GB free, if unused for about an hour. " +
			"10GB have to come free until then.\n\n"},
	} {
		if test.got != test.want {
			t.Errorf("got:\n%s\nwanted:\n%s", test.got, test.want)
		}
	}
	var b strings.Builder
	if err := whyListing().print(&b, "", c.Images); err != nil {
		t.Fatal(err)
	}
	want := `IMAGE ID       NAMES     SIZE      UNIQUE SIZE   LAST USED     WHY
0123456789ab   a:1,a:2   3MB       2MB           2 days ago    goes with the next collection
fedcba987654   <none>    1MB       1MB           2 hours ago   stays: it is pinned
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwanted:\n%s", &b, want)
	}
}
