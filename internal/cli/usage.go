package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageErrorCode is the status of a command line with a wrong flag.
const usageErrorCode = 125

// addHelp gives a command its --help, without the -h cobra would take for it, and the shape of its texts.
func (a *app) addHelp(cmd *cobra.Command) {
	if cmd.Flags().Lookup("help") == nil {
		cmd.Flags().Bool("help", false, "Print usage")
		if cmd.Flags().ShorthandLookup("h") == nil && cmd.Name() != "run" && cmd.Name() != "create" {
			cmd.Flags().Lookup("help").Hidden = true
		}
	}
	cmd.SetFlagErrorFunc(flagError)
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		if err := a.help(cmd, a.Out); err != nil {
			fmt.Fprintln(a.Err, err)
		}
	})
	cmd.SetUsageFunc(func(cmd *cobra.Command) error { return a.help(cmd, a.Err) })
}

func flagError(cmd *cobra.Command, err error) error {
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return err
	}
	return &exitError{usageErrorCode, fmt.Sprintf("%v\n\nUsage:  %s\n\n%s", err, useLine(cmd), seeHelp(cmd))}
}

func seeHelp(cmd *cobra.Command) string {
	return fmt.Sprintf("Run '%s --help' for more information", cmd.CommandPath())
}

func useLine(cmd *cobra.Command) string {
	_, rest, _ := strings.Cut(cmd.Use, " ")
	return strings.TrimSpace(cmd.CommandPath() + " " + rest)
}

func unknownCommand(cmd *cobra.Command, nodes []node, word string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "berth: unknown command: %s %s\n", cmd.CommandPath(), word)
	var words []string
	for _, n := range nodes {
		words = append(words, n.name)
		words = append(words, n.aliases...)
	}
	if near := nearest(word, words); len(near) > 0 {
		b.WriteString("\nDid you mean:\n")
		for _, n := range near {
			fmt.Fprintf(&b, "  %s %s\n", cmd.CommandPath(), n)
		}
	}
	if cmd.HasParent() {
		fmt.Fprintf(&b, "\nUsage:  %s\n", cmd.CommandPath())
	}
	fmt.Fprintf(&b, "\n%s", seeHelp(cmd))
	return &exitError{1, b.String()}
}

// nearest returns the words few slips of the hand away from the one typed, the nearest first.
func nearest(typed string, words []string) []string {
	type candidate struct {
		word     string
		distance int
	}
	var found []candidate
	for _, w := range words {
		d := distance(typed, w)
		if d <= 1+len(typed)/4 && d < len(w) || len(typed) > 2 && strings.HasPrefix(w, typed) {
			found = append(found, candidate{w, d})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.distance - b.distance })
	var near []string
	for _, c := range found {
		if len(near) < 3 && !slices.Contains(near, c.word) {
			near = append(near, c.word)
		}
	}
	return near
}

// distance counts the letters to add, drop, change or swap with a neighbour to get from a to b (optimal string
// alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}

// The rules for the number of arguments, with Docker's texts.

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return argsError(cmd, "accepts no arguments")
}

func minArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return argsError(cmd, fmt.Sprintf("requires at least %d %s", n, plural("argument", n)))
	}
}

func maxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return argsError(cmd, fmt.Sprintf("requires at most %d %s", n, plural("argument", n)))
	}
}

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return argsError(cmd, fmt.Sprintf("requires %d %s", n, plural("argument", n)))
	}
}

func rangeArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if low <= len(args) && len(args) <= high {
			return nil
		}
		return argsError(cmd, fmt.Sprintf("requires at least %d and at most %d %s", low, high, plural("argument", high)))
	}
}

func argsError(cmd *cobra.Command, what string) error {
	return &exitError{1, fmt.Sprintf("berth: '%s' %s\n\nUsage:  %s\n\n%s",
		cmd.CommandPath(), what, useLine(cmd), seeHelp(cmd))}
}

func plural(word string, n int) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// joined makes one error of several, a line each.
func joined(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return errors.Join(errs...)
}

// help writes the whole help of a command.
func (a *app) help(cmd *cobra.Command, w io.Writer) error {
	var b strings.Builder
	cols := a.width()
	if cols == 0 {
		cols = 80
	}
	root := !cmd.HasParent()
	fmt.Fprintf(&b, "Usage:  %s\n", useLine(cmd))
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(text))
	if cmd.HasParent() && !cmd.HasSubCommands() {
		if all := names(cmd); len(all) > 1 {
			fmt.Fprintf(&b, "\nAliases:\n  %s\n", strings.Join(all, ", "))
		}
	}
	options := "Options"
	if root {
		options = "Global Options"
	} else {
		a.helpOptions(&b, cmd, options, cols)
	}
	helpCommands(&b, cmd)
	if root {
		a.helpOptions(&b, cmd, options, cols)
	}
	if cmd.HasSubCommands() {
		fmt.Fprintf(&b, "\nRun '%s COMMAND --help' for more information on a command.\n", cmd.CommandPath())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (a *app) helpOptions(b *strings.Builder, cmd *cobra.Command, title string, cols int) {
	if flags := cmd.LocalFlags(); flags.HasAvailableFlags() {
		fmt.Fprintf(b, "\n%s:\n%s", title, flags.FlagUsagesWrapped(cols-1))
	}
}

func helpCommands(b *strings.Builder, cmd *cobra.Command) {
	sections := []string{common, management, single}
	if cmd.HasParent() {
		sections = []string{""}
	}
	for _, section := range sections {
		var lines []string
		for _, sub := range cmd.Commands() {
			if sub.Annotations["section"] == section && sub.Annotations != nil && !sub.Hidden {
				lines = append(lines, fmt.Sprintf("  %-11s %s\n", sub.Name(), sub.Short))
			}
		}
		if len(lines) == 0 {
			continue
		}
		if section == "" {
			section = "Commands"
		}
		slices.Sort(lines)
		if section == common {
			lines = inTreeOrder(lines)
		}
		fmt.Fprintf(b, "\n%s:\n%s", section, strings.Join(lines, ""))
	}
}

// inTreeOrder puts the common commands in the order in which people come to need them.
func inTreeOrder(lines []string) []string {
	var sorted []string
	for _, n := range tree() {
		for _, l := range lines {
			if n.section == common && strings.HasPrefix(l, "  "+n.name+" ") {
				sorted = append(sorted, l)
			}
		}
	}
	return sorted
}
