package main

import (
	"slices"

	"github.com/u-root/u-root/pkg/core"
	"github.com/u-root/u-root/pkg/core/base64"
	"github.com/u-root/u-root/pkg/core/mktemp"
	"github.com/u-root/u-root/pkg/core/rm"
	"github.com/u-root/u-root/pkg/core/shasum"
	"github.com/u-root/u-root/pkg/core/touch"
)

// row is one line of the table.
type row struct {
	name string
	run  func(*call) int
}

// table lists every command except the shell. It is sorted, and a function so that nothing is built before main.
func table() []row {
	return []row{
		{"[", bracket},
		{"base64", uroot(base64.New)},
		{"basename", basename},
		{"cat", cat},
		{"chgrp", chown},
		{"chmod", chmod},
		{"chown", chown},
		{"chroot", chroot},
		{"clear", clearScreen},
		{"cmp", compareFiles},
		{"cp", cp},
		{"cut", cut},
		{"date", date},
		{"dd", dd},
		{"df", df},
		{"dirname", dirname},
		{"dmesg", dmesg},
		{"du", du},
		{"echo", echo},
		{"env", env},
		{"expr", expr},
		{"find", findFiles},
		{"free", free},
		{"grep", grep},
		{"gunzip", gzipCommand},
		{"gzip", gzipCommand},
		{"head", head},
		{"hexdump", hexdump},
		{"hostname", hostname},
		{"id", id},
		{"ip", ip},
		{"kill", kill},
		{"killall", killall},
		{"ln", ln},
		{"ls", ls},
		{"md5sum", checksum},
		{"mkdir", mkdir},
		{"mkfifo", mkfifo},
		{"mknod", mknod},
		{"mktemp", uroot(mktemp.New)},
		{"mount", mount},
		{"mv", mv},
		{"nc", nc},
		{"nproc", nproc},
		{"nslookup", nslookup},
		{"pidof", pidof},
		{"ping", ping},
		{"printenv", printenv},
		{"printf", printfCommand},
		{"ps", ps},
		{"pwd", pwd},
		{"readlink", readlink},
		{"realpath", realpath},
		{"rm", uroot(rm.New)},
		{"rmdir", rmdir},
		{"sed", sed},
		{"seq", seq},
		{"sha256sum", checksum},
		{"sha512sum", checksum},
		{"shasum", uroot(shasum.New)},
		{"sleep", sleep},
		{"sort", sortLines},
		{"stat", stat},
		{"stty", stty},
		{"sync", syncDisks},
		{"tail", tail},
		{"tar", tarCommand},
		{"tee", tee},
		{"test", bracket},
		{"timeout", timeout},
		{"touch", uroot(touch.New)},
		{"tr", tr},
		{"truncate", truncate},
		{"tty", ttyName},
		{"umount", umount},
		{"uname", uname},
		{"uniq", uniq},
		{"uptime", uptime},
		{"wc", wc},
		{"wget", wget},
		{"which", which},
		{"whoami", whoami},
		{"xargs", xargs},
		{"yes", yes},
		{"zcat", gzipCommand},
	}
}

// names lists everything box can be called as, sorted.
func names() []string {
	all := []string{"bash", "false", "sh", "true"}
	for _, c := range table() {
		all = append(all, c.name)
	}
	slices.Sort(all)
	return all
}

// find looks a command up by name.
func find(name string) (func(*call) int, bool) {
	for _, c := range table() {
		if c.name == name {
			return c.run, true
		}
	}
	return nil, false
}

// uroot adapts one of u-root's commands.
func uroot(newCommand func() core.Command) func(*call) int {
	return func(c *call) int {
		cmd := newCommand()
		cmd.SetIO(c.in, c.out, c.err)
		return c.report(cmd.Run(c.args...))
	}
}
