// Clidocs writes the reference of the command line, docs/cli.md, from what the program itself says: it asks bin/berth for
// the help of every command it lists. With -check it writes nothing and fails when the file is not what it would write,
// so that a change of a flag shows in the review of the change.
//
//	go run ./test/clidocs [-check] bin/berth docs/cli.md
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

func main() {
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: clidocs [-check] PROGRAM FILE")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Arg(1), *check); err != nil {
		fmt.Fprintf(os.Stderr, "clidocs: %v\n", err)
		os.Exit(1)
	}
}

func run(program, file string, check bool) error {
	var out bytes.Buffer
	out.WriteString("# The command line\n\nWritten by `make docs` from the program's own help; do not edit.\n")
	if err := describe(&out, program, nil); err != nil {
		return err
	}
	if !check {
		return os.WriteFile(file, out.Bytes(), 0o644)
	}
	have, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, out.Bytes()) {
		return fmt.Errorf("%s is not what the program says of itself: run make docs", file)
	}
	return nil
}

// describe writes one command and then those below it.
func describe(out *bytes.Buffer, program string, path []string) error {
	cmd := exec.Command(program, append(append([]string{}, path...), "--help")...)
	// The same text everywhere: no terminal's width, no user's folders.
	cmd.Env = []string{"HOME=/root", "COLUMNS=80", "PATH=/usr/bin:/bin"}
	help, err := cmd.CombinedOutput()
	name := strings.Join(append([]string{"berth"}, path...), " ")
	if err != nil {
		return fmt.Errorf("%s --help: %w: %s", name, err, help)
	}
	fmt.Fprintf(out, "\n## %s\n\n```\n%s\n```\n", name, strings.TrimSpace(string(help)))
	for _, sub := range subcommands(string(help)) {
		if err := describe(out, program, append(append([]string{}, path...), sub)); err != nil {
			return err
		}
	}
	return nil
}

// subcommands reads the names under every heading that ends in "Commands:".
func subcommands(help string) []string {
	row := regexp.MustCompile(`^  ([a-z][a-z0-9-]*)\s{2,}\S`)
	var names []string
	in := false
	for line := range strings.Lines(help) {
		switch m := row.FindStringSubmatch(line); {
		case strings.HasSuffix(strings.TrimSpace(line), "Commands:"):
			in = true
		case strings.TrimSpace(line) == "":
		case !strings.HasPrefix(line, " "):
			in = false
		case in && m != nil:
			names = append(names, m[1])
		}
	}
	return names
}
