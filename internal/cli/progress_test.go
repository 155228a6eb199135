package cli

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
)

const pullStream = `{"status":"Pulling from library/busybox","id":"latest"}
{"status":"Pulling fs layer","progressDetail":{},"id":"aaa"}
{"status":"Pulling fs layer","progressDetail":{},"id":"bbb"}
{"status":"Downloading","progressDetail":{"current":512000,"total":1024000},"id":"aaa"}
{"status":"Downloading","progressDetail":{"current":2048,"total":4096},"id":"bbb"}
{"status":"Download complete","progressDetail":{},"id":"bbb"}
{"status":"Extracting","progressDetail":{"current":3,"units":"s"},"id":"aaa"}
{"status":"Pull complete","progressDetail":{},"id":"aaa"}
{"status":"Digest: sha256:abc"}
{"status":"Status: Downloaded newer image for busybox:latest"}
`

func view(terminal bool, width int) (*progressView, *bytes.Buffer) {
	var b bytes.Buffer
	return &progressView{w: &b, terminal: terminal, width: func() int { return width }, line: map[string]int{}}, &b
}

func TestProgressIsLinesWhereThereIsNoTerminal(t *testing.T) {
	v, b := view(false, 80)
	if err := v.show(context.Background(), io.NopCloser(strings.NewReader(pullStream)), nil); err != nil {
		t.Fatal(err)
	}
	want := "latest: Pulling from library/busybox\naaa: Pulling fs layer\nbbb: Pulling fs layer\nbbb: Download complete\n" +
		"aaa: Pull complete\nDigest: sha256:abc\nStatus: Downloaded newer image for busybox:latest\n"
	if b.String() != want {
		t.Errorf("printed\n%s", b)
	}
}

// screen plays what was written on a small terminal.
func screen(text string) []string {
	lines, row, col := []string{""}, 0, 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\n':
			row, col = row+1, 0
			for row >= len(lines) {
				lines = append(lines, "")
			}
		case c == '\r':
			col = 0
		case c == 0x1b:
			j := i + 2
			n := 0
			for ; text[j] >= '0' && text[j] <= '9'; j++ {
				n = n*10 + int(text[j]-'0')
			}
			switch text[j] {
			case 'A':
				row -= n
			case 'B':
				row += n
			case 'K':
				lines[row] = ""
			}
			i = j
		default:
			for len(lines[row]) <= col {
				lines[row] += " "
			}
			lines[row] = lines[row][:col] + string(c) + lines[row][col+1:]
			col++
		}
	}
	return lines
}

func TestProgressDrawsALineForEveryLayer(t *testing.T) {
	v, b := view(true, 80)
	half := strings.Join(strings.SplitAfter(pullStream, "\n")[:5], "")
	if err := v.show(context.Background(), io.NopCloser(strings.NewReader(half)), nil); err != nil {
		t.Fatal(err)
	}
	lines := screen(b.String())
	for i, want := range []string{"latest: Pulling from library/busybox", "aaa: Downloading [====", "bbb: Downloading [===="} {
		if !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d is %q", i, lines[i])
		}
	}
	if !strings.HasSuffix(strings.TrimRight(lines[1], " "), "512kB/1.024MB") || !strings.Contains(lines[1], "=>  ") {
		t.Errorf("the bar is %q", lines[1])
	}
	v, b = view(true, 80)
	v.show(context.Background(), io.NopCloser(strings.NewReader(pullStream)), nil)
	want := "latest: Pulling from library/busybox\naaa: Pull complete\nbbb: Download complete\nDigest: sha256:abc\n" +
		"Status: Downloaded newer image for busybox:latest\n"
	if got := strings.Join(screen(b.String()), "\n"); got != want {
		t.Errorf("in the end the screen shows\n%s", got)
	}
}

func TestProgressFitsNarrowTerminals(t *testing.T) {
	for width := 5; width < 120; width += 3 {
		v, b := view(true, width)
		v.show(context.Background(), io.NopCloser(strings.NewReader(strings.Join(strings.SplitAfter(pullStream, "\n")[:5], ""))), nil)
		for _, l := range screen(b.String()) {
			if len(strings.TrimRight(l, " ")) >= width {
				t.Fatalf("width %d: %q wraps", width, l)
			}
		}
	}
}

// A registry's words must not steer the terminal.
func TestProgressLetsNoControlCharactersThrough(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		v, b := view(terminal, 80)
		stream := `{"status":"\u001b]0;title\u0007\u001b[2Jgone\r\n","id":"\u001b[31ma"}` + "\n" + `{"status":"\u009b31m"}`
		v.show(context.Background(), io.NopCloser(strings.NewReader(stream)), nil)
		text := strings.NewReplacer("\x1b[1A", "", "\x1b[2K", "", "\x1b[1B", "").Replace(b.String())
		if strings.ContainsAny(text, "\x1b\x07\u009b") {
			t.Errorf("printed %q", b)
		}
	}
}

func TestProgressEndsWithTheErrorInTheStream(t *testing.T) {
	v, _ := view(false, 80)
	err := v.show(context.Background(), io.NopCloser(strings.NewReader(`{"errorDetail":{"message":"manifest unknown"}}`)), nil)
	if err == nil || err.Error() != "manifest unknown" {
		t.Errorf("%v", err)
	}
	if err := v.show(context.Background(), io.NopCloser(strings.NewReader(`{"status":`)), nil); err == nil {
		t.Error("a stream that was cut off is no error")
	}
}
