package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

type lookupFunc func(name string) (string, bool)

// variable completes the value of -e: a NAME alone takes its value from the person's environment, and stays a NAME
// when it has none there, which unsets it.
func variable(lookup lookupFunc) func(string) (string, error) {
	return func(s string) (string, error) {
		name, _, has := strings.Cut(s, "=")
		if name == "" {
			return "", errors.New("invalid environment variable: " + s)
		}
		if has {
			return s, nil
		}
		if value, ok := lookup(name); ok {
			return name + "=" + value, nil
		}
		return name, nil
	}
}

// readKeyValueFile reads an environment or label file:
//
//	# comment
//	NAME=value, taken as it is: no quotes, no expansion
//	NAME            the person's own value, or nothing
//
// White space before a name is dropped; the name holds none. lookup is nil where a name alone stands for itself.
func readKeyValueFile(path string, lookup lookupFunc) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := parseKeyValues(f, lookup)
	if err != nil {
		return nil, fmt.Errorf("invalid env file (%s): %w", path, err)
	}
	return list, nil
}

func parseKeyValues(r io.Reader, lookup lookupFunc) ([]string, error) {
	var list []string
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for n := 1; scanner.Scan(); n++ {
		line := scanner.Text()
		if !utf8.ValidString(line) {
			return nil, fmt.Errorf("invalid utf8 bytes at line %d: %q", n, line)
		}
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		line = strings.TrimLeftFunc(line, unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		name, _, has := strings.Cut(line, "=")
		switch {
		case name == "":
			return nil, fmt.Errorf("no variable name on line '%s'", line)
		case strings.ContainsFunc(name, unicode.IsSpace):
			return nil, fmt.Errorf("variable '%s' contains whitespaces", name)
		case has:
			list = append(list, line)
		case lookup == nil:
			list = append(list, name)
		default:
			if value, ok := lookup(name); ok {
				list = append(list, name+"="+value)
			}
		}
	}
	return list, scanner.Err()
}

// environment joins the files and the flags: a flag follows the files, so it wins.
func environment(files, flags []string, lookup lookupFunc) ([]string, error) {
	list := []string{}
	for _, path := range files {
		more, err := readKeyValueFile(path, lookup)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return append(list, flags...), nil
}
