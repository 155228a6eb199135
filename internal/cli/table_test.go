package cli

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/image"
)

// What an image says of itself adds no lines to a table and does not steer the terminal; to programs it goes as it is.
func TestTablesAreNotSteered(t *testing.T) {
	const by = "RUN x\n<missing>\x1b[2J\x1b]0;title\a"
	item := image.HistoryResponseItem{ID: "sha256:" + strings.Repeat("a", 64), CreatedBy: by, Comment: "a\r\x1b[1mb\u202e"}
	for format, raw := range map[string]bool{"": false, "table {{.CreatedBy}} {{.Comment}}": false, "{{.CreatedBy}}": true} {
		var out strings.Builder
		if err := historyListing(true, true).print(&out, format, []image.HistoryResponseItem{item}); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if raw != strings.Contains(text, by) || !raw && (strings.ContainsAny(text, "\x1b\a\r\u202e") || strings.Count(text, "\n") != 2) {
			t.Errorf("%q: %q", format, text)
		}
	}
	if got := visible("plain \"text\" with ‘quotes’ … \\ "); got != "plain \"text\" with ‘quotes’ … \\ " {
		t.Errorf("%q", got)
	}
}
