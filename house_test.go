// The laws of the house: which package may import which, what every package must say about itself, and what none may
// do. STYLE names the reasons; here each is a test, so that nobody has to remember them. A law that must be broken is
// changed here, with its reason beside it.
package main_test

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/berth-engine/berth"

// source is one package as its files stand in the tree.
type source struct {
	dir     string // "internal/cgroup"
	files   map[string]*ast.File
	tests   map[string]*ast.File
	imports map[string]string // import path → a file that imports it (not tests)
	fset    *token.FileSet
}

// sources parses every package of the module once.
func sources(t *testing.T) []*source {
	t.Helper()
	byDir := map[string]*source{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "build") {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); path != "." && err == nil {
				return fs.SkipDir // another module, which is not linked into this one
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); path != "." && err == nil {
				return fs.SkipDir // a module of its own has its own laws
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		if ignored(f) {
			return nil
		}
		dir := filepath.Dir(path)
		s := byDir[dir]
		if s == nil {
			s = &source{dir: dir, files: map[string]*ast.File{}, tests: map[string]*ast.File{}, imports: map[string]string{}, fset: fset}
			byDir[dir] = s
		}
		if strings.HasSuffix(path, "_test.go") {
			s.tests[path] = f
			return nil
		}
		s.files[path] = f
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports[p] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list := slices.Collect(maps.Values(byDir))
	slices.SortFunc(list, func(a, b *source) int { return strings.Compare(a.dir, b.dir) })
	return list
}

// ignored tells a file that is no part of its package: a generator, run by hand.
func ignored(f *ast.File) bool {
	for _, group := range f.Comments {
		for _, c := range group.List {
			if c.Pos() < f.Package && strings.HasPrefix(c.Text, "//go:build ignore") {
				return true
			}
		}
	}
	return false
}

// ours are the packages the laws hold for: all but the module's root, which has no code of its own.
func ours(t *testing.T) []*source {
	var list []*source
	for _, s := range sources(t) {
		if s.dir != "." && len(s.files) > 0 {
			list = append(list, s)
		}
	}
	return list
}

// readFloors reads floors.txt: "N package", one a line.
func readFloors(t *testing.T) map[string]int {
	t.Helper()
	f, err := os.Open("floors.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	floors := map[string]int{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line, _, _ := strings.Cut(sc.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		n, err := strconv.Atoi(fields[0])
		if err != nil || len(fields) != 2 {
			t.Fatalf("floors.txt: %q is not a floor and a package", sc.Text())
		}
		if _, twice := floors[fields[1]]; twice {
			t.Errorf("floors.txt: %s stands there twice", fields[1])
		}
		floors[fields[1]] = n
	}
	return floors
}

// floorOf finds a package's floor: its own line, or that of the nearest folder above it.
func floorOf(floors map[string]int, dir string) (string, int, bool) {
	for d := dir; d != "."; d = filepath.Dir(d) {
		if n, ok := floors[d]; ok {
			return d, n, true
		}
	}
	return "", 0, false
}

// outside tells the packages that are no part of the three programs: the tests' tools and the benchmark. They have no
// floor; they drive the programs from outside and import nothing of them.
func outside(dir string) bool {
	return dir == "bench" || strings.HasPrefix(dir, "bench/") || dir == "test" || strings.HasPrefix(dir, "test/")
}

func TestImportsGoDown(t *testing.T) {
	floors := readFloors(t)
	present := map[string]bool{}
	for _, s := range ours(t) {
		if outside(s.dir) {
			for p, file := range s.imports {
				if strings.HasPrefix(p, module+"/") && !outside(strings.TrimPrefix(p, module+"/")) {
					t.Errorf("%s imports %s: tests from outside drive the programs and know nothing of their packages", file, p)
				}
			}
			continue
		}
		room, floor, ok := floorOf(floors, s.dir)
		if !ok {
			t.Errorf("%s has no floor: give it a line in floors.txt", s.dir)
			continue
		}
		present[room] = true
		for p, file := range s.imports {
			dir, own := strings.CutPrefix(p, module+"/")
			if !own {
				continue
			}
			room2, floor2, ok := floorOf(floors, dir)
			if ok && room2 != room && floor2 >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d): imports go down", file, floor, dir, floor2)
			}
		}
	}
	for dir := range floors {
		if !present[dir] {
			t.Logf("floors.txt names %s, which has no code yet", dir)
		}
	}
}

// TestPackagesOpenWithTheirSpecification asks for a comment of at least two sentences on each package.
func TestPackagesOpenWithTheirSpecification(t *testing.T) {
	for _, s := range ours(t) {
		var docs []string
		for path, f := range s.files {
			if f.Doc != nil {
				docs = append(docs, path)
				want := "Package " + f.Name.Name + " "
				if f.Name.Name == "main" {
					base := filepath.Base(s.dir)
					want = strings.ToUpper(base[:1]) + base[1:] + " "
				}
				text := f.Doc.Text()
				if !strings.HasPrefix(text, want) && !strings.HasPrefix(text, "Command "+filepath.Base(s.dir)+" ") {
					t.Errorf("%s: the package comment does not begin with %q", path, want)
				}
				if n := sentences(text); n < 2 {
					t.Errorf("%s: the package comment has %d sentence(s); say what the package owns and what it refuses", path, n)
				}
			}
		}
		switch len(docs) {
		case 0:
			t.Errorf("%s has no package comment", s.dir)
		case 1:
		default:
			slices.Sort(docs)
			t.Errorf("%s has several package comments: %s", s.dir, strings.Join(docs, ", "))
		}
	}
}

func sentences(text string) int {
	n := 0
	text = strings.Join(strings.Fields(text), " ") + " "
	for _, end := range []string{". ", "! ", "? "} {
		n += strings.Count(text, end)
	}
	return n
}

// TestNoUnwelcomePackageNames: a package is named for what it hides.
func TestNoUnwelcomePackageNames(t *testing.T) {
	for _, s := range ours(t) {
		switch filepath.Base(s.dir) {
		case "util", "utils", "common", "types", "helpers", "pkg", "misc", "shared":
			t.Errorf("%s: a package is named for what it does", s.dir)
		}
	}
}

// TestNoInit: main reads from top to bottom as the wiring.
func TestNoInit(t *testing.T) {
	for _, s := range ours(t) {
		for path, f := range s.files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s: func init: what must happen at the start happens in main", path)
				}
			}
		}
	}
}

// allowedVars are package-level variables that are no state, by package and name, with the reason.
func allowedVars() map[string]string {
	return map[string]string{
		"cmd/berth.version": "stamped by the linker", "cmd/berth.commit": "stamped by the linker",
		"cmd/berth.buildTime": "stamped by the linker", "cmd/berthd.version": "stamped by the linker",
		"cmd/berthd.commit": "stamped by the linker", "cmd/berthd.buildTime": "stamped by the linker",
		"cmd/berth-runtime.version": "stamped by the linker", "cmd/berth-runtime.commit": "stamped by the linker",
		"cmd/berth-runtime.buildTime": "stamped by the linker",
	}
}

// TestNoMutableGlobals allows at package level: error values, embedded files, assertions (`var _ I = T{}`), and tables
// that nothing in the package writes to.
func TestNoMutableGlobals(t *testing.T) {
	allowed := allowedVars()
	for _, s := range ours(t) {
		if outside(s.dir) {
			continue
		}
		written := writes(s)
		for path, f := range s.files {
			for _, d := range f.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.VAR {
					continue
				}
				for _, spec := range g.Specs {
					v := spec.(*ast.ValueSpec)
					for i, name := range v.Names {
						if name.Name == "_" || allowed[s.dir+"."+name.Name] != "" || embedded(g) || embedded(v) {
							continue
						}
						var value ast.Expr
						if i < len(v.Values) {
							value = v.Values[i]
						}
						if why := mutable(v.Type, value); why != "" {
							t.Errorf("%s: var %s: %s", s.fset.Position(name.Pos()), name.Name, why)
						} else if written[name.Name] {
							t.Errorf("%s: var %s is written to: globals are constants", path, name.Name)
						}
					}
				}
			}
		}
	}
}

func embedded(n ast.Node) bool {
	var doc *ast.CommentGroup
	switch n := n.(type) {
	case *ast.GenDecl:
		doc = n.Doc
	case *ast.ValueSpec:
		doc = n.Doc
	}
	if doc == nil {
		return false
	}
	for _, c := range doc.List {
		if strings.HasPrefix(c.Text, "//go:embed") {
			return true
		}
	}
	return false
}

// mutable says why a variable is state by its very kind: it has no value yet, or holds a lock, a channel, an atomic.
func mutable(typ, value ast.Expr) string {
	if _, array := typ.(*ast.ArrayType); array && value == nil && typ.(*ast.ArrayType).Len != nil {
		return "" // zeros to read from
	}
	if value == nil {
		return "declared without a value, so something must write it"
	}
	switch e := value.(type) {
	case *ast.CallExpr:
		if id, ok := e.Fun.(*ast.Ident); ok && id.Name == "make" {
			return "made to be filled"
		}
		if id, ok := e.Fun.(*ast.Ident); ok && id.Name == "new" {
			return "made to be filled"
		}
	case *ast.CompositeLit:
		typ = e.Type
	case *ast.UnaryExpr:
		if c, ok := e.X.(*ast.CompositeLit); ok {
			typ = c.Type
		}
	}
	if sel, ok := typ.(*ast.SelectorExpr); ok {
		if pkg, ok := sel.X.(*ast.Ident); ok && (pkg.Name == "sync" || pkg.Name == "atomic") {
			return "a " + pkg.Name + "." + sel.Sel.Name + " at package level is state"
		}
	}
	return ""
}

// writes collects the names assigned to, incremented, indexed on the left or whose address is taken anywhere in a
// package and that are not local there.
func writes(s *source) map[string]bool {
	names := map[string]bool{}
	global := map[string]bool{}
	specs := map[any]bool{}
	for _, f := range s.files {
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
				for _, spec := range g.Specs {
					specs[spec] = true
					for _, n := range spec.(*ast.ValueSpec).Names {
						global[n.Name] = true
					}
				}
			}
		}
	}
	target := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
				continue
			case *ast.SelectorExpr:
				e = x.X
				continue
			case *ast.StarExpr:
				e = x.X
				continue
			case *ast.Ident:
				// x.Obj is nil for what another file declares at package level; otherwise it leads to the declaration.
				if global[x.Name] && (x.Obj == nil || specs[x.Obj.Decl]) {
					names[x.Name] = true
				}
			}
			return
		}
	}
	for _, f := range s.files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, l := range n.Lhs {
						target(l)
					}
				}
			case *ast.IncDecStmt:
				target(n.X)
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "delete" || id.Name == "clear") && len(n.Args) > 0 {
					target(n.Args[0])
				}
			}
			return true
		})
	}
	return names
}

// dependencies lists everything a package is linked from.
func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}}", pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("go list -deps %s: %v", pkg, err)
	}
	return strings.Fields(string(out))
}

// TestForbiddenDependencies: what may not be linked into which program, and why.
func TestForbiddenDependencies(t *testing.T) {
	for _, law := range []struct {
		program string
		why     string
		paths   []string // a path forbids what lies below it too
	}{
		{"cmd/berth-runtime", "it starts three times in a container's life and stays as its monitor: small and quick is its purpose",
			[]string{"net/http", "regexp", "text/template", "html/template", "crypto/tls", "go/ast",
				"github.com/containerd/containerd", "github.com/moby/moby", "github.com/spf13/cobra", "github.com/sirupsen/logrus",
				"google.golang.org/grpc", "google.golang.org/protobuf", "go.opentelemetry.io", "go.etcd.io/bbolt",
				"github.com/vishvananda/netlink", "github.com/google/nftables"}},
		// internal/archive and internal/confine are no host side: `cp` unpacks an archive that a container made, and must
		// not follow its links either.
		{"cmd/berth", "the client reaches the daemon's side only through the API (confine it may have: cp unpacks on its own side)",
			[]string{module + "/engine", module + "/internal/image", module + "/internal/container", module + "/internal/network",
				module + "/internal/volume", module + "/internal/store", module + "/internal/monitor", module + "/internal/ocirun",
				module + "/internal/cgroup", module + "/internal/seccomp", module + "/internal/registry", module + "/internal/dockerapi",
				module + "/internal/daemon", module + "/internal/logfile",
				"github.com/containerd/containerd", "go.etcd.io/bbolt", "github.com/vishvananda/netlink", "google.golang.org/grpc"}},
		{"cmd/berthd", "the daemon is one process: no helper daemon and no gRPC hop, no command line",
			[]string{module + "/internal/cli", "github.com/spf13/cobra", "github.com/moby/moby/client",
				"github.com/containerd/containerd/v2/client"}},
		{"cmd/berth-box", "`true` must start like `true`, and the image stays small",
			[]string{"net/http", "crypto/tls", "text/template", "encoding/json", "github.com/containerd", "github.com/moby",
				"github.com/vishvananda/netlink", "github.com/spf13/cobra"}},
	} {
		if _, err := os.Stat(law.program); err != nil {
			t.Errorf("%s: %v", law.program, err)
			continue
		}
		for _, dep := range dependencies(t, "./"+law.program) {
			for _, bad := range law.paths {
				if dep == bad || strings.HasPrefix(dep, bad+"/") {
					t.Errorf("%s links %s: %s", law.program, dep, law.why)
				}
			}
		}
	}
}

// TestSizes reports the programs' sizes beside their budgets. Only a program far over its budget fails: sizes move with
// the toolchain.
func TestSizes(t *testing.T) {
	for _, b := range []struct {
		file string
		mb   float64
	}{{"bin/berth", 10}, {"bin/berthd", 40}, {"bin/berth-runtime", 4.72}, {"bin/berth-box", 6}, {"bin/berth-registry", 26}} {
		fi, err := os.Stat(b.file)
		if err != nil {
			t.Logf("%s is not built", b.file)
			continue
		}
		size := float64(fi.Size()) / 1e6
		t.Logf("%-18s %5.1f MB of %4.0f", b.file, size, b.mb)
		if size > 1.5*b.mb {
			t.Errorf("%s is %.1f MB; its budget is %.0f MB", b.file, size, b.mb)
		}
	}
}

// TestLines: nobody scrolls sideways.
func TestLines(t *testing.T) {
	for _, s := range sources(t) {
		for path := range s.files {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for line := range strings.Lines(string(data)) {
				n++
				if len([]rune(strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "    "))) > 140 && !strings.Contains(line, "http") &&
					!strings.Contains(line, `"`) && !strings.Contains(line, "`") {
					t.Errorf("%s:%d: longer than 140 columns", path, n)
				}
			}
		}
	}
}

// TestDecisionsAreNumbered keeps two records from having one number, which happens when they are written side by side.
func TestDecisionsAreNumbered(t *testing.T) {
	entries, err := os.ReadDir("docs/decisions")
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "-")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 || len(number) != 4 {
			t.Errorf("docs/decisions/%s: the number of record %d in the folder is to be %04d", e.Name(), i+1, i+1)
			continue
		}
		text, err := os.ReadFile(filepath.Join("docs/decisions", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "# "+number+" ") {
			t.Errorf("docs/decisions/%s does not open with its number", e.Name())
		}
	}
}
