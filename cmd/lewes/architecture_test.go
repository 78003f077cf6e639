package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// moduleName is the prefix of every import path of ours.
const moduleName = "lewes"

// layer says what the packages in a folder, and below it, may import of ours. A
// package belongs to the layer with the longest name that fits.
type layer struct {
	name string
	// may lists what may be imported: a package, or with /... also all below it.
	may []string
}

// layers is the picture of the architecture: imports point down only.
var layers = []layer{
	{"cmd", []string{"..."}},
	{"bench", []string{"..."}},
	{"router", []string{"router/...", "transport/...", "state/...", "crypto/..."}},
	{"transport", []string{"transport/...", "state/...", "crypto/..."}},
	{"state", []string{"state/...", "crypto/..."}},
	{"crypto", []string{"crypto/..."}},
}

// vague are the names that say nothing about a package.
var vague = []string{"util", "utils", "common", "helper", "helpers", "types", "manager", "managers", "misc"}

// sansIO is the folder whose packages know no socket, no clock, no goroutine, no
// lock and no randomness but what they are passed.
const sansIO = "state"

// durable is the one folder below sansIO that is a store, with a file and a goroutine.
const durable = "state/ledger"

// ambient imports bring in from outside what a caller should pass.
var ambient = []string{"net", "os", "os/signal", "syscall", "io/ioutil", "crypto/rand", "math/rand", "math/rand/v2", "sync", "context", "log", "log/slog", "runtime"}

// clockwork is what package time has that looks at the clock or waits for it.
var clockwork = []string{"After", "AfterFunc", "LoadLocation", "Local", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Ticker", "Timer", "Until"}

// goPackage is a folder with Go files in it.
type goPackage struct {
	dir   string // relative to the module, with slashes
	files map[string]*ast.File
}

// product returns how many files are no tests.
func (p goPackage) product() (files int) {
	for name := range p.files {
		if !strings.HasSuffix(name, "_test.go") {
			files++
		}
	}
	return files
}

// goModule is the packages of a module, all files whatever their build
// constraints.
type goModule struct {
	set      *token.FileSet
	packages []goPackage
}

// readModule parses the module at root: not modules inside it, nor what the go
// command ignores.
func readModule(root fs.FS) (*goModule, error) {
	m := &goModule{set: token.NewFileSet()}
	byDir := make(map[string]map[string]*ast.File)
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		ignored := strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")
		if d.IsDir() {
			if name == "." {
				return nil
			}
			if _, err := fs.Stat(root, path.Join(name, "go.mod")); err == nil || ignored || base == "testdata" || base == "vendor" {
				return fs.SkipDir
			}
			return nil
		}
		if ignored || path.Ext(base) != ".go" {
			return nil
		}
		source, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(m.set, name, source, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		if byDir[dir] == nil {
			byDir[dir] = make(map[string]*ast.File)
		}
		byDir[dir][base] = file
		return nil
	})
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		m.packages = append(m.packages, goPackage{dir, byDir[dir]})
	}
	return m, err
}

// violations returns a line for each place where the module breaks a rule.
func (m *goModule) violations() (found []string) {
	for _, p := range m.packages {
		found = append(found, p.badNames()...)
		found = append(found, p.badDoc()...)
		if layerOf(p.dir) == nil && p.product() > 0 {
			found = append(found, fmt.Sprintf("%s: this folder is in no layer of the architecture", p.dir))
		}
		for _, name := range slices.Sorted(maps.Keys(p.files)) {
			file := p.files[name]
			found = append(found, m.badImports(p, file, strings.HasSuffix(name, "_test.go"))...)
			if within(p.dir, sansIO) && !within(p.dir, durable) && !strings.HasSuffix(name, "_test.go") {
				found = append(found, m.notSansIO(file)...)
			}
		}
	}
	return found
}

// within reports whether a folder is another or lies below it.
func within(dir, other string) bool {
	return dir == other || strings.HasPrefix(dir, other+"/")
}

func (p goPackage) badNames() (found []string) {
	names := map[string]bool{path.Base(p.dir): true}
	for _, file := range p.files {
		names[strings.TrimSuffix(file.Name.Name, "_test")] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if slices.Contains(vague, name) {
			found = append(found, fmt.Sprintf("%s: a package called %s says nothing about what is in it", p.dir, name))
		}
	}
	return found
}

// badDoc: a package says what it is for in doc.go, or where it has one file only, in
// that.
func (p goPackage) badDoc() []string {
	files := p.product()
	if files == 0 {
		return nil
	}
	doc := p.files["doc.go"]
	for name, file := range p.files {
		if doc == nil && files == 1 && !strings.HasSuffix(name, "_test.go") {
			doc = file
		}
	}
	switch {
	case doc == nil:
		return []string{p.dir + ": there is no doc.go"}
	case doc.Doc.Text() == "":
		return []string{p.dir + ": doc.go does not say what the package is for"}
	}
	return nil
}

// layerOf returns the layer of a package, nil for one that is in none.
func layerOf(dir string) *layer {
	var best *layer
	for i := range layers {
		if l := &layers[i]; within(dir, l.name) && (best == nil || len(l.name) > len(best.name)) {
			best = l
		}
	}
	return best
}

// allows reports whether a package of the layer, in dir, may import another of
// ours.
func (l *layer) allows(dir, imported string) bool {
	switch {
	case within(imported, "cmd"):
		return within(dir, "cmd")
	case within(imported, "bench"): // a command as well
		return within(dir, "bench")
	}
	for _, may := range l.may {
		prefix, below := strings.CutSuffix(may, "...")
		prefix = strings.TrimSuffix(prefix, "/")
		if imported == prefix || below && (prefix == "" || within(imported, prefix)) {
			return true
		}
	}
	return false
}

// badImports judges what a file imports. A test may import more than what it
// tests, but no test below cmd may import cmd, and none may use cgo.
func (m *goModule) badImports(p goPackage, file *ast.File, test bool) (found []string) {
	l := layerOf(p.dir)
	for _, spec := range file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser refuses such a file
		}
		at := m.set.Position(spec.Pos())
		if name == "C" {
			found = append(found, fmt.Sprintf("%v: cgo", at))
		}
		imported, ours := strings.CutPrefix(name, moduleName+"/")
		switch {
		case !ours || l == nil:
		case test && !within(imported, "cmd") && !within(imported, "bench"):
		case !l.allows(p.dir, imported):
			found = append(found, fmt.Sprintf("%v: %s may not import %s", at, p.dir, imported))
		}
	}
	return found
}

// notSansIO returns the places where a file does not leave the world to its
// caller.
func (m *goModule) notSansIO(file *ast.File) (found []string) {
	say := func(at token.Pos, what string) {
		found = append(found, fmt.Sprintf("%v: %s, and %s knows no socket, clock, lock, goroutine or randomness but what it is passed", m.set.Position(at), what, sansIO))
	}
	clock := "" // the name by which the file knows package time
	for _, spec := range file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		switch {
		case slices.Contains(ambient, name):
			say(spec.Pos(), "it imports "+name)
		case name == "time" && spec.Name != nil:
			if clock = spec.Name.Name; clock == "." {
				say(spec.Pos(), "it imports time so that its use does not show")
			}
		case name == "time":
			clock = "time"
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			say(n.Pos(), "it starts a goroutine")
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == clock && slices.Contains(clockwork, n.Sel.Name) {
				say(n.Pos(), "it uses time."+n.Sel.Name)
			}
		}
		return true
	})
	return found
}

func TestArchitecture(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	m, err := readModule(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range m.violations() {
		t.Error(line)
	}
}

// TestArchitectureRules shows each rule a module that breaks it, and one that does
// not.
func TestArchitectureRules(t *testing.T) {
	const doc = "// Package p is for tests.\npackage p\n"
	for _, test := range []struct {
		name  string
		files map[string]string
		want  []string // a piece of each line, in order
	}{{
		name: "all is well",
		files: map[string]string{
			"crypto/seal/doc.go":         doc + "import _ \"lewes/crypto/kdf\"\n",
			"crypto/kdf/kdf.go":          doc, // a package of one file
			"crypto/kdf/kdf_test.go":     "package p\nimport (\n_ \"lewes/state\"\n_ \"os\"\n)\n",
			"state/doc.go":               doc,
			"state/ledger/doc.go":        doc + "import _ \"os\"\n",
			"state/a.go":                 "package p\nimport (\n\"net/netip\"\n\"time\"\n_ \"lewes/state/wire\"\n_ \"lewes/state/parts\"\n)\nvar x = time.Unix(0, 0)\nvar y netip.Addr\n",
			"state/a_test.go":            "package p\nimport \"time\"\nvar now = time.Now()\n",
			"router/doc.go":              doc + "import (\n_ \"lewes/state\"\n_ \"lewes/router/policy\"\n_ \"lewes/transport/udp\"\n)\n",
			"transport/client/doc.go":    doc + "import _ \"lewes/state\"\n",
			"cmd/x/doc.go":               doc + "import (\n_ \"lewes/cmd/x/internal/y\"\n_ \"lewes/router\"\n_ \"lewes/transport/client\"\n)\n",
			"deploy/unit_test.go":        "package deploy\n",
			"bench/peers/go.mod":         "module peers\n",
			"bench/peers/util/a.go":      "package util\nimport \"C\"\n",
			"crypto/kdf/testdata/bad.go": "not Go",
		},
	}, {
		name: "imports that point up or aside",
		files: map[string]string{
			"crypto/a/doc.go":          doc + "import _ \"lewes/state\"\n",
			"state/doc.go":             doc + "import _ \"lewes/transport\"\n",
			"transport/client/doc.go":  doc + "import _ \"lewes/router/policy\"\n",
			"transport/udp/only_os.go": "//go:build plan9\n\n" + doc + "import _ \"lewes/router\"\n",
		},
		want: []string{
			"crypto/a may not import state", "state may not import transport",
			"transport/client may not import router/policy", "transport/udp may not import router",
		},
	}, {
		name: "cmd is imported",
		files: map[string]string{
			"router/doc.go":    doc + "import _ \"lewes/cmd/x\"\n",
			"router/a_test.go": "package p\nimport _ \"lewes/cmd/x\"\nimport _ \"lewes/bench/load\"\n",
			"cmd/x/doc.go":     doc + "import _ \"lewes/bench/load\"\n",
		},
		want: []string{"cmd/x may not import bench/load", "a_test.go:2:8: router may not import cmd/x", "a_test.go:3:8: router may not import bench/load", "doc.go:3:8: router may not import cmd/x"},
	}, {
		name: "state looks around",
		files: map[string]string{
			"state/doc.go":     doc,
			"state/a/doc.go":   doc + "import (\n\"crypto/rand\"\n\"net\"\n\"sync\"\n)\n",
			"state/b/doc.go":   doc + "import clock \"time\"\nvar x = clock.Now()\nfunc f() { <-clock.After(1) }\n",
			"state/c/doc.go":   doc + "import . \"time\"\n",
			"state/d/doc.go":   doc + "func f() { go f() }\n",
			"router/doc.go":    doc + "import \"time\"\nvar x = time.Now()\n",
			"state/e/clock.go": doc + "import \"time\"\nvar x = time.NewTimer\n",
		},
		want: []string{
			"imports crypto/rand", "imports net", "imports sync", "uses time.Now", "uses time.After",
			"its use does not show", "starts a goroutine", "uses time.NewTimer",
		},
	}, {
		name: "names, documentation, cgo, folders",
		files: map[string]string{
			"crypto/util/util.go":    doc,
			"crypto/b/doc.go":        "// Package types is.\npackage types\n",
			"crypto/c/a.go":          doc,
			"crypto/c/b.go":          "package p\n",
			"crypto/d/doc.go":        "package p\n",
			"crypto/d/d.go":          doc,
			"crypto/e/doc.go":        doc + "import \"C\"\n",
			"crypto/e/cgo_test.go":   "package p\nimport \"C\"\n",
			"internal/things/doc.go": doc,
		},
		want: []string{
			"a package called types", "crypto/c: there is no doc.go", "doc.go does not say", "cgo_test.go:2:8: cgo", "doc.go:3:8: cgo",
			"a package called util", "internal/things: this folder is in no layer",
		},
	}} {
		t.Run(test.name, func(t *testing.T) {
			root := make(fstest.MapFS)
			for name, source := range test.files {
				root[name] = &fstest.MapFile{Data: []byte(source)}
			}
			m, err := readModule(root)
			if err != nil {
				t.Fatal(err)
			}
			got := m.violations()
			for i, line := range got {
				if i >= len(test.want) || !strings.Contains(line, test.want[i]) {
					t.Errorf("unexpected: %s", line)
				}
			}
			if len(got) < len(test.want) {
				t.Errorf("found %d violations, want %q", len(got), test.want)
			}
		})
	}
}
