package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/berth-engine/berth/internal/tty"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/jsonstream"
)

// progressView shows the messages of a pull, push or load. On a terminal every layer has a line of its own that is
// drawn over; elsewhere each new state is one line and bytes are not counted.
type progressView struct {
	w        io.Writer
	terminal bool
	width    func() int

	order []string       // IDs from top to bottom
	line  map[string]int // index in order
}

func (a *app) progress(w io.Writer) *progressView {
	v := &progressView{w: w, line: map[string]int{}}
	fd, ok := terminal(w)
	v.terminal = ok
	v.width = func() int {
		if ok {
			if _, cols, err := tty.Size(fd); err == nil && cols > 0 {
				return int(cols)
			}
		}
		return 200
	}
	return v
}

// show reads the messages to their end. aux gets what the server says besides; an error in the stream is returned.
func (v *progressView) show(ctx context.Context, stream io.ReadCloser, aux func(json.RawMessage)) error {
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	dec := json.NewDecoder(stream)
	for {
		var m jsonstream.Message
		if err := dec.Decode(&m); err == io.EOF {
			return nil
		} else if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("reading the daemon's progress: %w", err)
		}
		switch {
		case m.Error != nil:
			return m.Error
		case m.Aux != nil:
			if aux != nil {
				aux(*m.Aux)
			}
		default:
			v.message(m)
		}
	}
}

func (v *progressView) message(m jsonstream.Message) {
	counting := m.Progress != nil && (m.Progress.Current > 0 || m.Progress.Total > 0)
	switch {
	case m.Stream != "":
		io.WriteString(v.w, m.Stream)
	case !v.terminal:
		if counting {
			return
		}
		if m.ID != "" {
			fmt.Fprintf(v.w, "%s: ", clean(m.ID))
		}
		fmt.Fprintf(v.w, "%s\n", clean(m.Status))
	case m.ID == "":
		fmt.Fprintf(v.w, "%s\n", clean(m.Status))
		// What follows begins below this line.
		v.order, v.line = nil, map[string]int{}
	default:
		v.redraw(m, counting)
	}
}

// redraw writes the line of one ID and returns the cursor below the last.
func (v *progressView) redraw(m jsonstream.Message, counting bool) {
	i, known := v.line[m.ID]
	if !known {
		i = len(v.order)
		v.line[m.ID] = i
		v.order = append(v.order, m.ID)
		fmt.Fprint(v.w, "\n")
	}
	text := clean(m.ID) + ": " + clean(m.Status)
	if counting {
		text += " " + v.bar(m, v.width()-len(text)-1)
	}
	up := len(v.order) - i
	// A line must not wrap, or the count of lines to go up is wrong.
	fmt.Fprintf(v.w, "\x1b[%dA\r\x1b[2K%s\r\x1b[%dB", up, cut(text, v.width()-1), up)
}

// bar is "[====>     ]  1.2MB/3MB" in the room there is.
func (v *progressView) bar(m jsonstream.Message, room int) string {
	p := m.Progress
	if p.Total <= 0 {
		if p.Units != "" {
			return fmt.Sprintf("%d %s", p.Current, p.Units)
		}
		return units.HumanSize(float64(p.Current))
	}
	numbers := ""
	if !p.HideCounts {
		current, total := units.HumanSize(float64(p.Current)), units.HumanSize(float64(p.Total))
		if p.Units != "" {
			current, total = fmt.Sprint(p.Current), fmt.Sprint(p.Total)+" "+p.Units
		}
		if p.Current > p.Total {
			total = current
		}
		numbers = fmt.Sprintf(" %8s/%s", current, total)
	}
	size := min(50, room-len(numbers)-3)
	if size < 5 {
		return strings.TrimSpace(numbers)
	}
	done := min(int(p.Current*int64(size)/p.Total), size)
	head := ""
	if done < size {
		head = ">"
	}
	return "[" + strings.Repeat("=", done) + head + strings.Repeat(" ", size-done-len(head)) + "]" + numbers
}

// clean takes control characters out of what a server or a registry wrote, so that it cannot steer the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}

func cut(s string, width int) string {
	if r := []rune(s); len(r) > width && width > 0 {
		return string(r[:width])
	}
	return s
}
