package seccomp

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// libseccompFile holds profiles and the filters that libseccomp made of them. It is made anew, from other profiles, by
//
//	go test ./internal/seccomp -run TestLibseccomp -ask-libseccomp 7
//
// on amd64 with python3 and libseccomp2 (2.5.4 at the time); the number is a seed. With -keep=false nothing is written: a way to
// compare as many profiles as one likes. What it then finds is to be judged against the package comment: of 64 profiles libseccomp
// 2.5.4 contradicts its own manual in four (a value that is not equal in its upper half only, and rules that share a block of
// instructions); such a profile is left out of the file, and said so.
const libseccompFile = "testdata/libseccomp.json.gz"

func askFlags() (seed *uint64, count *int, keep *bool) {
	return flag.Uint64("ask-libseccomp", 0, "seed of new profiles to ask libseccomp about"), flag.Int("profiles", 150, "how many"),
		flag.Bool("keep", true, "write them to testdata")
}

var askSeed, askCount, askKeep = askFlags()

// asked is a profile and libseccomp's answer.
type asked struct {
	Profile *specs.LinuxSeccomp `json:"profile"`
	Prog    []byte              `json:"prog"`
}

// job is a profile as runc hands it to libseccomp: rules that do what the default does are left out, and one with two conditions on
// the same argument is several.
type job struct {
	Default uint32    `json:"default"`
	Arches  []uint32  `json:"arches"`
	Rules   []jobRule `json:"rules"`
}

type jobRule struct {
	Name   string   `json:"name"`
	Action uint32   `json:"action"`
	Args   []jobArg `json:"args"`
}

type jobArg struct {
	Index uint   `json:"index"`
	Op    int    `json:"op"`
	A     uint64 `json:"a"`
	B     uint64 `json:"b"`
}

func jobOf(t *testing.T, p *specs.LinuxSeccomp) (j job) {
	t.Helper()
	tokens := map[specs.Arch]uint32{specs.ArchX86: unix.AUDIT_ARCH_I386, specs.ArchX86_64: unix.AUDIT_ARCH_X86_64,
		specs.ArchX32: 0x4000003e, specs.ArchARM: unix.AUDIT_ARCH_ARM, specs.ArchAARCH64: unix.AUDIT_ARCH_AARCH64}
	ops := []specs.LinuxSeccompOperator{"", specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	action := func(a specs.LinuxSeccompAction, data *uint) uint32 {
		v, err := parseAction(a, data)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	j.Default = action(p.DefaultAction, p.DefaultErrnoRet)
	for _, a := range p.Architectures {
		if token, ok := tokens[a]; ok {
			j.Arches = append(j.Arches, token)
		}
	}
	for _, s := range p.Syscalls {
		does := action(s.Action, s.ErrnoRet)
		if does == j.Default {
			continue
		}
		var args []jobArg
		twice := false
		for i, a := range s.Args {
			twice = twice || slices.ContainsFunc(s.Args[:i], func(b specs.LinuxSeccompArg) bool { return a.Index == b.Index })
			args = append(args, jobArg{a.Index, slices.Index(ops, a.Op), a.Value, a.ValueTwo})
		}
		for _, name := range s.Names {
			if !twice {
				j.Rules = append(j.Rules, jobRule{name, does, args})
				continue
			}
			for _, a := range args {
				j.Rules = append(j.Rules, jobRule{name, does, []jobArg{a}})
			}
		}
	}
	return j
}

// ask makes profiles and gets libseccomp's filters.
func ask(t *testing.T, seed uint64, count int) (list []asked) {
	var profiles []*specs.LinuxSeccomp
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN"}, {"CAP_SYS_PTRACE", "CAP_NET_ADMIN"}, {"CAP_BPF", "CAP_SYS_CHROOT", "CAP_SYS_TIME"}} {
		profiles = append(profiles, defaultProfile(t, caps...))
	}
	r := rand.New(rand.NewPCG(seed, 2))
	for range count {
		data := make([]byte, 20+r.IntN(400))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		profiles = append(profiles, plain(fuzzed(data)))
	}
	var jobs []job
	for _, p := range profiles {
		jobs = append(jobs, jobOf(t, p))
	}
	in, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", "testdata/libseccomp.py")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var answers []struct {
		Prog    []byte
		Error   string
		Unknown []string
	}
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i, a := range answers {
		if a.Error != "" {
			refused++
			continue
		}
		// Calls that are younger than this libseccomp are none of its.
		p := profiles[i]
		for k := range p.Syscalls {
			p.Syscalls[k].Names = slices.DeleteFunc(p.Syscalls[k].Names, func(n string) bool { return slices.Contains(a.Unknown, n) })
		}
		p.Syscalls = slices.DeleteFunc(p.Syscalls, func(s specs.LinuxSyscall) bool { return len(s.Names) == 0 })
		list = append(list, asked{p, a.Prog})
	}
	t.Logf("libseccomp made filters of %d profiles and refused %d", len(list), refused)
	return list
}

// plain leaves one rule for each call, with one condition for each argument: where several rules are about the same call, libseccomp
// merges them into one tree, of whose answers only some are those of the rules.
func plain(p *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	i386, _ := findArch(specs.ArchX86)
	seen := map[int]bool{}
	for i := range p.Syscalls {
		s := &p.Syscalls[i]
		s.Names = slices.DeleteFunc(s.Names, func(name string) bool {
			index := findCall(name)
			_, _, muxed := i386.muxBy(index)
			again := seen[index]
			seen[index] = true
			return again || muxed || name == "socketcall" || name == "ipc"
		})
		var args []specs.LinuxSeccompArg
		for _, a := range s.Args {
			if !slices.ContainsFunc(args, func(b specs.LinuxSeccompArg) bool { return a.Index == b.Index }) {
				args = append(args, a)
			}
		}
		s.Args = args
	}
	p.Syscalls = slices.DeleteFunc(p.Syscalls, func(s specs.LinuxSyscall) bool { return len(s.Names) == 0 })
	return p
}

// TestLibseccomp compares our filters with libseccomp's, by running both.
func TestLibseccomp(t *testing.T) {
	if nativeArch() != specs.ArchX86_64 {
		t.Skip("libseccomp was asked on amd64")
	}
	var list []asked
	if *askSeed != 0 {
		list = ask(t, *askSeed, *askCount)
	} else {
		f, err := os.Open(libseccompFile)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.NewDecoder(z).Decode(&list); err != nil {
			t.Fatal(err)
		}
	}
	answers := 0
	for i, a := range list {
		ours, err := Compile(a.Profile)
		if err != nil {
			t.Errorf("profile %d: %v", i, err)
			continue
		}
		n, wrong := disagree(a.Profile, ours, &Filter{Prog: a.Prog}, uint64(i))
		answers += n
		if wrong != "" && *askSeed != 0 && *askKeep {
			t.Logf("left out: profile %d: %s", i, wrong)
			list[i].Prog = nil
			continue
		}
		if wrong != "" {
			text, _ := json.Marshal(a.Profile)
			t.Errorf("profile %d: %s\n%s", i, wrong, text)
		}
	}
	t.Logf("%d profiles, %d answers", len(list), answers)
	if *askSeed != 0 && *askKeep && !t.Failed() {
		list = slices.DeleteFunc(list, func(a asked) bool { return a.Prog == nil })
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		err := json.NewEncoder(z).Encode(list)
		if err == nil {
			err = z.Close()
		}
		if err == nil {
			err = os.WriteFile(libseccompFile, buf.Bytes(), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// disagree runs both filters over every number of a call and a few arguments, and tells of the first different answer.
//
// A few differences are meant. A call of an architecture that is not listed ends the process here, and there its thread. Numbers above
// those that the profile names are ENOSYS here, as in runc, which puts instructions for it before libseccomp's. x32 has the
// calls of x86-64 here also where it has another number for them or none: kernels before 5.4 took them.
func disagree(p *specs.LinuxSeccomp, ours, theirs *Filter, seed uint64) (answers int, wrong string) {
	const enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	otherwise, _ := parseAction(p.DefaultAction, p.DefaultErrnoRet)
	r := rand.New(rand.NewPCG(seed, 3))
	values := interesting(p, r)
	numbers := []uint32{^uint32(0), 1 << 31, armPrivate, armPrivate + 2, armPrivate + 5, x32Bit, x32Bit + 600}
	for nr := range uint32(560) {
		numbers = append(numbers, nr, x32Bit+nr)
	}
	for _, audit := range audits {
		for _, nr := range numbers {
			for range 4 {
				args := pick(values, r)
				got, want := ours.Simulate(audit, int32(nr), args), theirs.Simulate(audit, int32(nr), args)
				answers++
				switch {
				case got == want:
				case got == unix.SECCOMP_RET_KILL_PROCESS && want == unix.SECCOMP_RET_KILL_THREAD && naive(p, audit, nr, args) == got:
				case audit == unix.AUDIT_ARCH_X86_64 && nr >= x32Bit && want == otherwise && naive(p, audit, nr, args) == got:
				case got == enosys && want == otherwise && naive(p, audit, nr, args) == got:
				default:
					return answers, fmt.Sprintf("arch %#x, call %#x, arguments %#x: ours gives %#x, libseccomp's %#x", audit, nr, args, got, want)
				}
			}
		}
	}
	return answers, ""
}
