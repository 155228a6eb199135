package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
)

// node is one command of the tree, before it is built.
type node struct {
	name    string
	section string // heading in the help of the program, "" hides it there
	aliases []string
	make    func(*app) *cobra.Command
	// A group has no make, but these:
	short    string
	children []node
}

const (
	common     = "Common Commands"
	management = "Management Commands"
	single     = "Commands"
)

// tree lists every command. Where one has two names (docker's "ps" and "container ls"), also lists the words of all.
func tree() []node {
	return []node{
		{name: "run", section: common, make: newRun},
		{name: "exec", section: common, make: newExec},
		{name: "ps", section: common, make: newPs},
		{name: "pull", section: common, make: newPull},
		{name: "push", section: common, make: newPush},
		{name: "images", section: common, make: newImages},
		{name: "login", section: common, make: newLogin},
		{name: "logout", section: common, make: newLogout},
		{name: "version", section: common, make: newVersion},
		{name: "info", section: common, make: newInfo},

		{name: "builder", section: management, short: "Manage builds", children: []node{
			{name: "prune", make: newBuilderPrune},
		}},
		{name: "container", section: management, short: "Manage containers", children: []node{
			{name: "attach", make: newAttach},
			{name: "commit", make: newCommit},
			{name: "cp", make: newCp},
			{name: "create", make: newCreate},
			{name: "diff", make: newDiff},
			{name: "exec", make: newExec},
			{name: "export", make: newExport},
			{name: "inspect", make: newContainerInspect},
			{name: "kill", make: newKill},
			{name: "logs", make: newLogs},
			{name: "ls", aliases: []string{"ps", "list"}, make: newPs},
			{name: "pause", make: newPause},
			{name: "port", make: newPort},
			{name: "prune", make: newContainerPrune},
			{name: "rename", make: newRename},
			{name: "restart", make: newRestart},
			{name: "rm", aliases: []string{"remove"}, make: newRm},
			{name: "run", make: newRun},
			{name: "start", make: newStart},
			{name: "stats", make: newStats},
			{name: "stop", make: newStop},
			{name: "top", make: newTop},
			{name: "unpause", make: newUnpause},
			{name: "update", make: newUpdate},
			{name: "wait", make: newWait},
		}},
		{name: "image", section: management, short: "Manage images", children: []node{
			{name: "gc", make: newImageGC},
			{name: "explore", make: newImageExplore},
			{name: "history", make: newHistory},
			{name: "import", make: newImport},
			{name: "inspect", make: newImageInspect},
			{name: "load", make: newLoad},
			{name: "ls", aliases: []string{"list"}, make: newImages},
			{name: "pin", make: newImagePin},
			{name: "prune", make: newImagePrune},
			{name: "pull", make: newPull},
			{name: "push", make: newPush},
			{name: "rm", aliases: []string{"remove"}, make: newRmi},
			{name: "save", make: newSave},
			{name: "tag", make: newTag},
			{name: "unpin", make: newImageUnpin},
		}},
		{name: "manifest", section: management, short: "Put images for several platforms under one name", children: []node{
			{name: "annotate", make: newManifestAnnotate},
			{name: "create", make: newManifestCreate},
			{name: "inspect", make: newManifestInspect},
			{name: "push", make: newManifestPush},
			{name: "rm", make: newManifestRm},
		}},
		{name: "network", section: management, short: "Manage networks", children: []node{
			{name: "connect", make: newNetworkConnect},
			{name: "create", make: newNetworkCreate},
			{name: "disconnect", make: newNetworkDisconnect},
			{name: "inspect", make: newNetworkInspect},
			{name: "log", make: newNetworkLog},
			{name: "ls", aliases: []string{"list"}, make: newNetworkLs},
			{name: "prune", make: newNetworkPrune},
			{name: "rm", aliases: []string{"remove"}, make: newNetworkRm},
			{name: "trace", make: newNetworkTrace},
			{name: "update", make: newNetworkUpdate},
		}},
		{name: "registry", section: management, short: "Serve images to others", children: []node{
			{name: "gc", make: newRegistryGC},
			{name: "serve", make: newRegistryServe},
			{name: "status", make: newRegistryStatus},
			{name: "stop", make: newRegistryStop},
		}},
		{name: "system", section: management, short: "Manage the daemon", children: []node{
			{name: "check", make: newSystemCheck},
			{name: "df", make: newSystemDf},
			{name: "events", make: newEvents},
			{name: "info", make: newInfo},
			{name: "prune", make: newSystemPrune},
		}},
		{name: "volume", section: management, short: "Manage volumes", children: []node{
			{name: "create", make: newVolumeCreate},
			{name: "inspect", make: newVolumeInspect},
			{name: "ls", aliases: []string{"list"}, make: newVolumeLs},
			{name: "prune", make: newVolumePrune},
			{name: "rm", aliases: []string{"remove"}, make: newVolumeRm},
		}},

		{name: "attach", section: single, make: newAttach},
		{name: "commit", section: single, make: newCommit},
		{name: "cp", section: single, make: newCp},
		{name: "create", section: single, make: newCreate},
		{name: "diff", section: single, make: newDiff},
		{name: "events", section: single, make: newEvents},
		{name: "export", section: single, make: newExport},
		{name: "history", section: single, make: newHistory},
		{name: "import", section: single, make: newImport},
		{name: "inspect", section: single, make: newInspect},
		{name: "kill", section: single, make: newKill},
		{name: "load", section: single, make: newLoad},
		{name: "logs", section: single, make: newLogs},
		{name: "pause", section: single, make: newPause},
		{name: "port", section: single, make: newPort},
		{name: "rename", section: single, make: newRename},
		{name: "restart", section: single, make: newRestart},
		{name: "rm", section: single, make: newRm},
		{name: "rmi", section: single, make: newRmi},
		{name: "save", section: single, make: newSave},
		{name: "search", section: single, make: newSearch},
		{name: "start", section: single, make: newStart},
		{name: "stats", section: single, make: newStats},
		{name: "stop", section: single, make: newStop},
		{name: "tag", section: single, make: newTag},
		{name: "top", section: single, make: newTop},
		{name: "unpause", section: single, make: newUnpause},
		{name: "update", section: single, make: newUpdate},
		{name: "wait", section: single, make: newWait},
	}
}

// newRoot builds the program's command and, of those below it, the ones on the path args ask for. Where the path
// leads nowhere (help, completion, a mistake) it builds all.
func newRoot(a *app, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "berth [OPTIONS] COMMAND [ARG...]",
		Short: "Run applications in containers",
		Args:  cobra.ArbitraryArgs,
		// The flags of the program stand before the command's name; behind it the letters mean other things.
		TraverseChildren: true, SilenceErrors: true, SilenceUsage: true, DisableFlagsInUseLine: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.global.version {
				return a.printVersionLine()
			}
			if len(args) > 0 {
				return unknownCommand(cmd, tree(), args[0])
			}
			return a.help(cmd, a.Out)
		},
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.checkGlobal(root, cmd) }
	a.addGlobalFlags(root)
	a.addHelp(root)
	if !addPath(a, root, tree(), pathOf(root, args)) {
		for _, n := range tree() {
			root.AddCommand(n.whole(a))
		}
	}
	return root
}

// pathOf returns the words of args from the first that is no flag of the program and no value of one.
func pathOf(root *cobra.Command, args []string) []string {
	for i := 0; i < len(args); i++ {
		word := args[i]
		switch {
		case word == "--" || len(word) < 2 || word[0] != '-':
			return args[i:]
		case strings.Contains(word, "="):
		case strings.HasPrefix(word, "--"):
			if f := root.Flags().Lookup(word[2:]); f != nil && f.NoOptDefVal == "" {
				i++
			}
		default:
			// -H value, but not -Hvalue and not -Dv.
			if f := root.Flags().ShorthandLookup(word[len(word)-1:]); len(word) == 2 && f != nil && f.NoOptDefVal == "" {
				i++
			}
		}
	}
	return nil
}

// addPath adds the one node the path names, and tells whether there is one.
func addPath(a *app, parent *cobra.Command, nodes []node, path []string) bool {
	if len(path) == 0 {
		return false
	}
	for _, n := range nodes {
		if !n.named(path[0]) {
			continue
		}
		if n.make != nil {
			parent.AddCommand(n.leaf(a))
			return true
		}
		group := n.group(a)
		if !addPath(a, group, n.children, path[1:]) {
			group = n.whole(a)
		}
		parent.AddCommand(group)
		return true
	}
	return false
}

func (n *node) named(word string) bool {
	if n.name == word {
		return true
	}
	for _, alias := range n.aliases {
		if alias == word {
			return true
		}
	}
	return false
}

// whole builds the node and everything below it.
func (n *node) whole(a *app) *cobra.Command {
	if n.make != nil {
		return n.leaf(a)
	}
	group := n.group(a)
	for _, child := range n.children {
		group.AddCommand(child.whole(a))
	}
	return group
}

func (n *node) leaf(a *app) *cobra.Command {
	cmd := n.make(a)
	_, rest, _ := strings.Cut(cmd.Use, " ")
	cmd.Use = strings.TrimSpace(n.name + " " + rest)
	cmd.Aliases = n.aliases
	cmd.Annotations = map[string]string{"section": n.section}
	a.addHelp(cmd)
	return cmd
}

func (n *node) group(a *app) *cobra.Command {
	children := n.children
	cmd := &cobra.Command{
		Use: n.name + " COMMAND", Short: n.short, Args: cobra.ArbitraryArgs, DisableFlagsInUseLine: true,
		Annotations: map[string]string{"section": n.section},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, children, args[0])
			}
			return a.help(cmd, a.Err)
		},
	}
	a.addHelp(cmd)
	return cmd
}

// names returns every path under which the same command can be called, the one it was called by last.
func names(cmd *cobra.Command) []string {
	var all []string
	for _, group := range synonyms() {
		for _, name := range group {
			if "berth "+name == cmd.CommandPath() {
				for _, name := range group {
					all = append(all, "berth "+name)
				}
				return all
			}
		}
	}
	for _, alias := range append([]string{cmd.Name()}, cmd.Aliases...) {
		all = append(all, cmd.Parent().CommandPath()+" "+alias)
	}
	return all
}

// synonyms lists the commands with names in two places. Of all others the group's and the short name are the same word.
func synonyms() [][]string {
	list := [][]string{
		{"container ls", "container list", "container ps", "ps"},
		{"container rm", "container remove", "rm"},
		{"image ls", "image list", "images"},
		{"image rm", "image remove", "rmi"},
		{"system events", "events"},
		{"system info", "info"},
	}
	for group, words := range map[string]string{
		"container": "attach commit cp create diff exec export kill logs pause port rename restart run start stats stop " +
			"top unpause update wait",
		"image": "history import load pull push save tag",
	} {
		for word := range strings.FieldsSeq(words) {
			list = append(list, []string{group + " " + word, word})
		}
	}
	return list
}

// each calls fn for every argument, at most fifty at a time, and hands what it returns to done in the order of the
// arguments. It returns the errors, one per line.
func each(ctx context.Context, args []string, fn func(context.Context, string) error, done func(string)) error {
	results := make([]chan error, len(args))
	slots := make(chan struct{}, 50)
	for i := range args {
		results[i] = make(chan error, 1)
	}
	go func() {
		for i, arg := range args {
			slots <- struct{}{}
			go func() {
				results[i] <- fn(ctx, arg)
				<-slots
			}()
		}
	}()
	var failed []error
	for i, arg := range args {
		if err := <-results[i]; err != nil {
			failed = append(failed, err)
		} else if done != nil {
			done(arg)
		}
	}
	return joined(failed)
}
