package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newEvents(a *app) *cobra.Command {
	var o client.EventsListOptions
	var filter filterValue
	var format string
	cmd := command("events [OPTIONS]", "Show what happens, as it happens", noArgs,
		func(ctx context.Context, _ []string) error {
			o.Filters = filter.filters
			var template *outputTemplate
			switch format {
			case "":
			case "json":
				format = "{{json .}}"
				fallthrough
			default:
				var err error
				if template, err = a.parseFormat(format); err != nil {
					return err
				}
			}
			return a.events(ctx, o, template)
		})
	f := cmd.Flags()
	f.VarP(&filter, "filter", "f", "Show only what fits (name=value)")
	f.StringVar(&format, "format", "", `How to print: "json" or a Go template`)
	f.StringVar(&o.Since, "since", "", "Begin with the events since this time")
	f.StringVar(&o.Until, "until", "", "End at this time")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func (a *app) events(ctx context.Context, o client.EventsListOptions, template *outputTemplate) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := api.Events(ctx, o)
	for {
		select {
		case e := <-stream.Messages:
			if err := a.printEvent(e, template); err != nil {
				return err
			}
		case err := <-stream.Err:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func (a *app) printEvent(e events.Message, template *outputTemplate) error {
	if template != nil {
		v, err := objectOf(e)
		if err != nil {
			return err
		}
		if err := template.execute(a.Out, eventFields{v.(*object), e}); err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.Out)
		return err
	}
	var b strings.Builder
	const stamp = "2006-01-02T15:04:05.000000000Z07:00" // all nine digits, so that columns stand below each other
	if e.TimeNano != 0 {
		b.WriteString(time.Unix(0, e.TimeNano).Format(stamp) + " ")
	} else if e.Time != 0 {
		b.WriteString(time.Unix(e.Time, 0).Format(stamp) + " ")
	}
	fmt.Fprintf(&b, "%s %s %s", e.Type, e.Action, e.Actor.ID)
	if len(e.Actor.Attributes) > 0 {
		var list []string
		for _, k := range sortedKeys(e.Actor.Attributes) {
			list = append(list, k+"="+e.Actor.Attributes[k])
		}
		fmt.Fprintf(&b, " (%s)", strings.Join(list, ", "))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(a.Out, b.String())
	return err
}

// eventFields adds the names old templates use to an event's own.
type eventFields struct {
	*object
	e events.Message
}

func (f eventFields) field(name string) (any, bool) {
	switch name {
	case "ID":
		return f.e.Actor.ID, true
	case "Status":
		return string(f.e.Action), true
	case "From":
		return f.e.Actor.Attributes["image"], true
	}
	return f.object.field(name)
}

func (f eventFields) jsonValue() any { return f.object }
