package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/ocirun"
)

// ps shows the container's processes, as the host's ps tells them.
func ps(c *cli, args []string) error {
	f := newFlags("berth-runtime ps", "[FLAGS] ID [PS-OPTIONS]")
	var format string
	f.both(&format, "format", "f", "table", "table or json")
	id, err := f.id(args, 0)
	if err != nil {
		return err
	}
	st, _, err := c.load(id)
	if err != nil {
		return err
	}
	pids, err := pidsOf(st)
	if err != nil {
		return err
	}
	switch format {
	case "json":
		return c.printJSON(append([]int{}, pids...))
	case "table":
	default:
		return invalid("--format %q is neither table nor json", format)
	}
	options := f.Args()[1:]
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.Command("ps", options...).Output()
	if err != nil {
		return fmt.Errorf("ps: %w", err)
	}
	return c.onlyPids(string(out), pids)
}

// onlyPids prints the heading of ps's table and the lines of these processes.
func (c *cli) onlyPids(table string, pids []int) error {
	lines := strings.Split(strings.TrimSuffix(table, "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return invalid("ps shows no column PID")
	}
	for i, line := range lines {
		fields := strings.Fields(line)
		if i > 0 {
			if len(fields) <= column {
				continue
			}
			pid, err := strconv.Atoi(fields[column])
			if err != nil || !slices.Contains(pids, pid) {
				continue
			}
		}
		if _, err := fmt.Fprintln(c.out, line); err != nil {
			return err
		}
	}
	return nil
}

func features(c *cli, args []string) error {
	if err := newFlags("berth-runtime features", "").parse(args); err != nil {
		return err
	}
	return c.printJSON(ocirun.Features(version))
}

// writeSpec writes a config.json that can be run: a shell in what is at rootfs.
func writeSpec(c *cli, args []string) error {
	f := newFlags("berth-runtime spec", "[FLAGS]")
	var bundle string
	f.both(&bundle, "bundle", "b", ".", "directory to write config.json to")
	rootless := f.Bool("rootless", false, "for an ordinary user")
	if err := f.parse(args); err != nil {
		return err
	}
	example := ocirun.Example()
	if *rootless {
		example = ocirun.RootlessExample(uint32(os.Geteuid()), uint32(os.Getegid()))
	}
	data, err := json.MarshalIndent(example, "", "\t")
	if err != nil {
		return err
	}
	name := filepath.Join(bundle, "config.json")
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = file.Write(append(data, '\n'))
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}
