package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/spf13/cobra"
)

func newNetworkTrace(a *app) *cobra.Command {
	var format, to string
	cmd := command("trace [OPTIONS] CONTAINER [PORT[/PROTO]]", "Draw the way of packets to and from a container", rangeArgs(1, 2),
		func(ctx context.Context, args []string) error {
			query := url.Values{}
			if len(args) > 1 {
				query.Set("port", args[1])
			}
			if to != "" {
				query.Set("to", to)
			}
			var t berthapi.Trace
			if err := a.getOwn(ctx, berthapi.TracePath(url.PathEscape(args[0])), query, &t); err != nil {
				return err
			}
			switch format {
			case "":
				_, err := io.WriteString(a.Out, drawTrace(&t))
				return err
			case "json":
				out, err := json.MarshalIndent(&t, "", "    ")
				if err == nil {
					_, err = fmt.Fprintln(a.Out, string(out))
				}
				return err
			}
			return fmt.Errorf("invalid --format %q: it is json, or nothing for a drawing", format)
		})
	cmd.Flags().StringVar(&to, "to", "", "Also say what becomes of packets to a destination: address or domain, :port, /protocol")
	cmd.Long = "Draw the way of packets to and from a container, as the kernel has it: the pair of interfaces, the bridge, addresses, " +
		"firewall rules, egress policies, tracked connections and who listens inside, and what keeps packets from arriving.\n\n" +
		"PORT is the container's own; without it, all published ports are followed."
	cmd.Flags().StringVar(&format, "format", "", "json, or nothing for a drawing")
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(false))
	return cmd
}

// errUnknownRequest is of daemons that have Docker's API alone.
var errUnknownRequest = errors.New("does not know this request")

// getOwn asks the daemon for what Docker's API does not have.
func (a *app) getOwn(ctx context.Context, path string, query url.Values, out any) error {
	return a.askOwn(ctx, http.MethodGet, path, query, out)
}

// askOwn is getOwn with another method.
func (a *app) askOwn(ctx context.Context, method, path string, query url.Values, out any) error {
	return a.sendOwn(ctx, method, path, query, nil, out)
}

// sendOwn is askOwn with a document; nil is none.
func (a *app) sendOwn(ctx context.Context, method, path string, query url.Values, in, out any) error {
	return a.sendOwnWith(ctx, nil, method, path, query, in, out)
}

// daemonError is what the daemon says of a request that failed.
type daemonError struct{ text string }

func (e *daemonError) Error() string { return "Error response from daemon: " + e.text }

// sendOwnWith is sendOwn with a header, which may be nil.
func (a *app) sendOwnWith(ctx context.Context, header http.Header, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	api, err := a.client()
	if err != nil {
		return err
	}
	dial := api.Dialer()
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}}
	req, err := http.NewRequestWithContext(ctx, method, "http://berth"+path+"?"+query.Encode(), body)
	if err != nil {
		return err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := web.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("cannot connect to the daemon at %s: %w", api.DaemonHost(), err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated {
		return dec.Decode(out)
	}
	var failure struct{ Message string }
	if err := dec.Decode(&failure); err != nil || failure.Message == "" || failure.Message == "page not found" {
		return fmt.Errorf("the daemon at %s %w (%s): is it Berth's, of this release?", api.DaemonHost(), errUnknownRequest, resp.Status)
	}
	return &daemonError{failure.Message}
}

// drawTrace draws from the inside out.
func drawTrace(t *berthapi.Trace) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s)\n", t.Container, shortID(t.ID))
	for _, e := range t.Endpoints {
		drawEndpoint(&b, e)
	}
	for _, p := range t.Ports {
		drawPort(&b, p)
	}
	if len(t.To) > 0 {
		b.WriteString("\n")
	}
	for _, line := range t.To {
		fmt.Fprintf(&b, "to %s\n", line)
	}
	b.WriteString("\n")
	if len(t.Problems) == 0 {
		b.WriteString("Nothing was found that keeps packets from arriving.\n")
		return b.String()
	}
	b.WriteString("What keeps packets from arriving:\n")
	for _, p := range t.Problems {
		fmt.Fprintf(&b, "  ✗ %s\n", p)
	}
	return b.String()
}

func drawEndpoint(b *strings.Builder, e berthapi.TraceEndpoint) {
	fmt.Fprintf(b, "\nnetwork %s (%s)\n", e.Network, e.Driver)
	drawLink(b, "in the container", &e.Inside)
	if e.Host != nil {
		b.WriteString("      ║\n")
		drawLink(b, "on the host", e.Host)
	}
	if e.Bridge != nil {
		b.WriteString("      │\n")
		drawLink(b, "bridge", e.Bridge)
	}
	for _, g := range e.Gateways {
		fmt.Fprintf(b, "      ↳ the container's way out: %s\n", g)
	}
	for _, r := range e.Rules {
		fmt.Fprintf(b, "      · %s\n", r)
	}
}

func drawLink(b *strings.Builder, where string, l *berthapi.TraceLink) {
	state := "up"
	switch {
	case !l.Up:
		state = "DOWN"
	case !l.Carrier:
		state = "up, NO CARRIER"
	}
	fmt.Fprintf(b, "  %-16s  %s", where, l.Name)
	if l.Index == 0 {
		b.WriteString("  GONE\n")
		return
	}
	fmt.Fprintf(b, " #%d  %s  mtu %d  %s", l.Index, l.MAC, l.MTU, state)
	for _, a := range l.Addresses {
		fmt.Fprintf(b, "  %s", a)
	}
	b.WriteString("\n")
}

func drawPort(b *strings.Builder, p berthapi.TracePort) {
	fmt.Fprintf(b, "\nport %d/%s\n", p.Port, p.Proto)
	if len(p.Published) == 0 {
		b.WriteString("  not published\n")
	}
	for _, a := range p.Published {
		fmt.Fprintf(b, "  host %s\n", a)
	}
	for _, r := range p.Rules {
		fmt.Fprintf(b, "      · %s\n", r)
	}
	if len(p.Listeners) > 0 {
		fmt.Fprintf(b, "      ↳ listening inside: %s\n", socketList(p.Listeners))
	}
	for _, f := range p.Flows {
		fmt.Fprintf(b, "      ⇄ %s\n", f)
	}
}

func socketList(addrs []netip.AddrPort) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}
