package transport_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// specification is the file whose requirements the module's tests show. The test
// runs in its folder.
const specification = "PROTOCOL.md"

// TestEveryRequirementIsShown compares PROTOCOL.md with all tests of the module
// (section 15 of PROTOCOL.md). It prints a line for each requirement that no test
// shows and for each name that is not defined.
func TestEveryRequirementIsShown(t *testing.T) {
	text, err := os.ReadFile(specification)
	if err != nil {
		t.Fatal(err)
	}
	requirements, problems := parseRequirements(string(text))
	if len(requirements) == 0 {
		t.Fatalf("%s defines no requirement", specification)
	}
	root, err := moduleRoot(".")
	if err != nil {
		t.Fatal(err)
	}
	files, err := testFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	var claims []claim
	for _, file := range files {
		source, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		c, p := parseClaims(file, source)
		claims = append(claims, c...)
		problems = append(problems, p...)
	}
	problems = append(problems, compare(requirements, claims, openRequirements(string(text)))...)
	for _, p := range problems {
		t.Error(p)
	}
}

// requirement is a definition in the specification.
type requirement struct {
	name string // "R5.3"
	line int
	text string // one line, without the name
}

var (
	section    = regexp.MustCompile(`^## (?:(\d+)\. )?`)
	listItem   = regexp.MustCompile(`^\s*(?:[-*+]|\d+\.) `)
	definition = regexp.MustCompile(`^(?:[-*+] )?\*\*(R(\d+)\.\d+)\*\*(.*)`)
	bold       = regexp.MustCompile(`\*\*(R\d+\.\d+)\*\*`)
	mention    = regexp.MustCompile(`\bR\d+\.\d+\b`)
	keyword    = regexp.MustCompile(`\b(MUST|MUST NOT|SHOULD|SHOULD NOT)\b`)
)

// parseRequirements returns the requirements of a specification in Markdown, in
// order, and its problems.
func parseRequirements(text string) (found []requirement, problems []string) {
	problem := func(line int, format string, args ...any) {
		problems = append(problems, fmt.Sprintf("%s:%d: ", specification, line)+fmt.Sprintf(format, args...))
	}
	var (
		current string               // section number
		lines   = map[string]int{}   // of definitions, by name
		named   = map[string][]int{} // lines that mention a name
		open    = false              // the last requirement's text goes on
		fenced  = false              // inside a code block
		begins  = true               // a paragraph may begin here
	)
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, " \r\n")
		for _, name := range mention.FindAllString(line, -1) {
			named[name] = append(named[name], n)
		}
		if strings.HasPrefix(line, "```") {
			fenced, open, begins = !fenced, false, true
			continue
		}
		if fenced {
			continue
		}
		if m := section.FindStringSubmatch(line); m != nil {
			current = m[1]
		}
		item := listItem.MatchString(line)
		if line == "" || item || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "|") {
			open, begins = false, true
		}
		m := definition.FindStringSubmatch(line)
		if m == nil || !begins {
			if b := bold.FindStringSubmatch(line); b != nil {
				problem(n, "%s is bold, but not at the beginning of a paragraph or list item", b[1])
			}
			if open {
				last := &found[len(found)-1]
				last.text += " " + strings.TrimSpace(line)
			}
			begins = line == "" || strings.HasPrefix(line, "#")
			continue
		}
		name, number, rest := m[1], m[2], m[3]
		if first, twice := lines[name]; twice {
			problem(n, "%s is defined twice, first in line %d", name, first)
		} else {
			lines[name] = n
		}
		if number != current {
			problem(n, "%s stands in section %s", name, orNone(current))
		}
		found = append(found, requirement{name, n, strings.TrimSpace(rest)})
		open, begins = true, false
	}
	for _, r := range found {
		if !keyword.MatchString(r.text) {
			problem(r.line, "%s has neither MUST nor SHOULD", r.name)
		}
	}
	for name, where := range named {
		if _, ok := lines[name]; !ok {
			for _, line := range where {
				problem(line, "%s is mentioned, but not defined", name)
			}
		}
	}
	slices.SortStableFunc(problems, byLine)
	return found, problems
}

func orNone(section string) string {
	if section == "" {
		return "without a number"
	}
	return section
}

// byLine orders the problems of one file.
func byLine(a, b string) int {
	line := func(s string) int {
		n, _ := strconv.Atoi(strings.SplitN(s, ":", 3)[1])
		return n
	}
	return line(a) - line(b)
}

// claim is a test's reference to a requirement.
type claim struct {
	name  string // of the requirement
	where string // file:line of the comment
}

var (
	claimLike = regexp.MustCompile(`^//\s*[Ss]hows:?\s+R\d`)
	claimLine = regexp.MustCompile(`^// Shows R\d+\.\d+(, R\d+\.\d+)*\.$`)
	testName  = regexp.MustCompile(`^(Test|Fuzz)([^a-z]|$)`)
)

// parseClaims returns the requirements that the tests in a Go file show, and the
// problems of the comments that name them.
func parseClaims(file string, source []byte) (claims []claim, problems []string) {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, file, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, []string{fmt.Sprintf("%s cannot be read: %v", file, err)}
	}
	tests := map[*ast.CommentGroup]bool{}
	for _, d := range tree.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Doc != nil && f.Recv == nil && testName.MatchString(f.Name.Name) {
			tests[f.Doc] = true
		}
	}
	for _, group := range tree.Comments {
		for _, c := range group.List {
			if !claimLike.MatchString(c.Text) {
				continue
			}
			where := fmt.Sprintf("%s:%d", file, set.Position(c.Pos()).Line)
			switch {
			case !claimLine.MatchString(c.Text):
				problems = append(problems, fmt.Sprintf("%s: %q is not of the form // Shows R1.2, R3.4.", where, c.Text))
			case !tests[group]:
				problems = append(problems, fmt.Sprintf("%s: %q does not stand directly above a test", where, c.Text))
			default:
				for _, name := range mention.FindAllString(c.Text, -1) {
					claims = append(claims, claim{name, where})
				}
			}
		}
	}
	return claims, problems
}

// compare returns a line for each requirement that no test shows and for each claim
// of an undefined requirement.
func compare(requirements []requirement, claims []claim, open []string) (problems []string) {
	shown := map[string]bool{}
	defined := map[string]bool{}
	for _, r := range requirements {
		defined[r.name] = true
	}
	for _, c := range claims {
		shown[c.name] = true
		if !defined[c.name] {
			problems = append(problems, fmt.Sprintf("%s: %s is no requirement of %s", c.where, c.name, specification))
		}
	}
	for _, name := range open {
		switch {
		case !defined[name]:
			problems = append(problems, fmt.Sprintf("%s: %s is called open and is no requirement", specification, name))
		case shown[name]:
			problems = append(problems, fmt.Sprintf("%s: %s is called open, and a test shows it", specification, name))
		}
	}
	for _, r := range requirements {
		if !shown[r.name] && !slices.Contains(open, r.name) {
			problems = append(problems, fmt.Sprintf("%s:%d: %s is shown by no test: %s", specification, r.line, r.name, shorten(r.text, 100)))
		}
	}
	return problems
}

// openRequirements returns the names that the specification calls open: parts of
// the protocol that this repository does not implement.
func openRequirements(text string) []string {
	const mark = "Open in this repository: "
	_, rest, found := strings.Cut(text, "\n"+mark)
	if !found {
		return nil
	}
	paragraph, _, _ := strings.Cut(rest, "\n\n")
	return mention.FindAllString(paragraph, -1)
}

// shorten cuts text to at most n characters, between words.
func shorten(text string, n int) string {
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	cut := string(runes[:n])
	if i := strings.LastIndexByte(cut, ' '); i > 0 {
		cut = cut[:i]
	}
	return cut + " …"
}

// moduleRoot returns the nearest folder with a go.mod, dir or one above it.
func moduleRoot(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod in %s or above it", start)
		}
	}
}

// testFiles returns the _test.go files of the module at root, relative to it: not
// those of modules inside it, nor files that the go command ignores.
func testFiles(root string) (files []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if !d.IsDir() {
			if strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "_") {
				relative, err := filepath.Rel(root, path)
				if err != nil {
					return err
				}
				files = append(files, filepath.ToSlash(relative))
			}
			return nil
		}
		if path == root {
			return nil
		}
		if name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
			return filepath.SkipDir
		}
		return nil
	})
	return files, err
}

func TestParseRequirements(t *testing.T) {
	for _, test := range []struct {
		name     string
		text     string
		want     []requirement
		problems []string
	}{{
		name: "list items and paragraphs",
		text: "# P\n## 5. Keys\n\n- **R5.1** A MUST hold,\n  and B\n  with it.\n- **R5.2** C MUST NOT.\nnot a new paragraph\n\n**R5.10** D SHOULD.\n\nOther text.\n",
		want: []requirement{
			{"R5.1", 4, "A MUST hold, and B with it."},
			{"R5.2", 7, "C MUST NOT. not a new paragraph"},
			{"R5.10", 10, "D SHOULD."},
		},
	}, {
		name: "text ends at a table, a heading, a code block",
		text: "## 1. A\n- **R1.1** It MUST.\n| a | b |\n\n- **R1.2** It MUST.\n### B\nC\n\n**R1.3** It MUST.\n```\nD\n```\nE\n",
		want: []requirement{{"R1.1", 2, "It MUST."}, {"R1.2", 5, "It MUST."}, {"R1.3", 9, "It MUST."}},
	}, {
		name: "mentions are no definitions",
		text: "## 1. A\n\n- **R1.1** It MUST, see R1.1.\n\nFor R1.1 there is more. R11.1x and XR2.2 are no names.\n",
		want: []requirement{{"R1.1", 3, "It MUST, see R1.1."}},
	}, {
		name: "nothing in code blocks is defined",
		text: "## 1. A\n\n- **R1.1** It MUST.\n\n```\n- **R1.1** again\n```\n",
		want: []requirement{{"R1.1", 3, "It MUST."}},
	}, {
		name:     "twice",
		text:     "## 1. A\n\n- **R1.1** It MUST.\n- **R1.1** It MUST too.\n",
		want:     []requirement{{"R1.1", 3, "It MUST."}, {"R1.1", 4, "It MUST too."}},
		problems: []string{"PROTOCOL.md:4: R1.1 is defined twice, first in line 3"},
	}, {
		name:     "in another section",
		text:     "## 1. A\n\n- **R2.1** It MUST.\n\n## Appendix\n\n- **R1.1** It MUST.\n",
		want:     []requirement{{"R2.1", 3, "It MUST."}, {"R1.1", 7, "It MUST."}},
		problems: []string{"PROTOCOL.md:3: R2.1 stands in section 1", "PROTOCOL.md:7: R1.1 stands in section without a number"},
	}, {
		name:     "bold inside a paragraph",
		text:     "## 1. A\n\n- **R1.1** It MUST.\n\nAs\n**R1.1** says, and **R1.1** too.\n",
		want:     []requirement{{"R1.1", 3, "It MUST."}},
		problems: []string{"PROTOCOL.md:6: R1.1 is bold, but not at the beginning of a paragraph or list item"},
	}, {
		name:     "mentioned only",
		text:     "## 1. A\n\n- **R1.1** It MUST, unlike R1.2.\n\n```\nR1.3\n```\n",
		want:     []requirement{{"R1.1", 3, "It MUST, unlike R1.2."}},
		problems: []string{"PROTOCOL.md:3: R1.2 is mentioned, but not defined", "PROTOCOL.md:6: R1.3 is mentioned, but not defined"},
	}, {
		name:     "nothing is demanded",
		text:     "## 1. A\n\n- **R1.1** It may, or must.\n",
		want:     []requirement{{"R1.1", 3, "It may, or must."}},
		problems: []string{"PROTOCOL.md:3: R1.1 has neither MUST nor SHOULD"},
	}, {
		name: "empty",
	}} {
		t.Run(test.name, func(t *testing.T) {
			got, problems := parseRequirements(test.text)
			if !slices.Equal(got, test.want) {
				t.Errorf("found %+v, want %+v", got, test.want)
			}
			if !slices.Equal(problems, test.problems) {
				t.Errorf("problems %q, want %q", problems, test.problems)
			}
		})
	}
}

func TestParseClaims(t *testing.T) {
	const head = "package p\n"
	for _, test := range []struct {
		name     string
		source   string
		want     []claim
		problems []string
	}{{
		name:   "alone, in a longer comment, on two lines",
		source: head + "// Shows R1.2.\nfunc TestA(t *T) {}\n\n// TestB does.\n//\n// Shows R1.2, R10.31.\n// Shows R3.4.\nfunc TestB(t *T) {}\n",
		want:   []claim{{"R1.2", "a_test.go:2"}, {"R1.2", "a_test.go:7"}, {"R10.31", "a_test.go:7"}, {"R3.4", "a_test.go:8"}},
	}, {
		name:   "fuzz targets",
		source: head + "// Shows R1.2.\nfunc FuzzA(f *F) {}\n",
		want:   []claim{{"R1.2", "a_test.go:2"}},
	}, {
		name:   "a string is no comment",
		source: head + "const s = `\n// Shows R1.2.\n`\n",
	}, {
		name:   "other comments that begin alike",
		source: head + "// Shows that R1.2 holds.\n// Shows Round.\nfunc TestA(t *T) {}\n",
	}, {
		name:     "above something else",
		source:   head + "// Shows R1.2.\nfunc helped(t *T) {}\n\n// Shows R1.3.\nfunc Testify(t *T) {}\n\n// Shows R1.4.\nfunc (x X) TestA(t *T) {}\n\n// Shows R1.5.\nvar x int\n",
		problems: []string{`a_test.go:2: "// Shows R1.2." does not stand directly above a test`, `a_test.go:5: "// Shows R1.3." does not stand directly above a test`, `a_test.go:8: "// Shows R1.4." does not stand directly above a test`, `a_test.go:11: "// Shows R1.5." does not stand directly above a test`},
	}, {
		name:     "not directly above, inside",
		source:   head + "// Shows R1.2.\n\nfunc TestA(t *T) {\n\t// Shows R1.3.\n}\n",
		problems: []string{`a_test.go:2: "// Shows R1.2." does not stand directly above a test`, `a_test.go:5: "// Shows R1.3." does not stand directly above a test`},
	}, {
		name:     "malformed",
		source:   head + "// Shows R1.2\n// Shows R1.2 and R1.3.\n// Shows R1, R2.3.\n// Shows: R1.2.\n//Shows R1.2.\n// Shows R1.2,R1.3.\nfunc TestA(t *T) {}\n",
		problems: malformed("// Shows R1.2", "// Shows R1.2 and R1.3.", "// Shows R1, R2.3.", "// Shows: R1.2.", "//Shows R1.2.", "// Shows R1.2,R1.3."),
	}, {
		name:     "not Go",
		source:   "packet p\n",
		problems: []string{"a_test.go cannot be read: a_test.go:1:1: expected 'package', found packet"},
	}} {
		t.Run(test.name, func(t *testing.T) {
			got, problems := parseClaims("a_test.go", []byte(test.source))
			if !slices.Equal(got, test.want) {
				t.Errorf("found %+v, want %+v", got, test.want)
			}
			if !slices.Equal(problems, test.problems) {
				t.Errorf("problems %q, want %q", problems, test.problems)
			}
		})
	}
}

// malformed returns parseClaims's problems for malformed comments from line 2 on.
func malformed(comments ...string) (problems []string) {
	for i, c := range comments {
		problems = append(problems, fmt.Sprintf("a_test.go:%d: %q is not of the form // Shows R1.2, R3.4.", i+2, c))
	}
	return problems
}

func TestCompare(t *testing.T) {
	requirements := []requirement{{"R1.1", 3, "It MUST."}, {"R1.2", 9, strings.Repeat("very ", 30) + "long MUST"}}
	all := []claim{{"R1.2", "a_test.go:4"}, {"R1.1", "b_test.go:7"}, {"R1.1", "c_test.go:1"}}
	if got := compare(requirements, all, nil); got != nil {
		t.Errorf("all are shown, yet %q", got)
	}
	want := []string{
		"a_test.go:8: R9.9 is no requirement of PROTOCOL.md",
		"PROTOCOL.md:3: R1.1 is shown by no test: It MUST.",
		"PROTOCOL.md:9: R1.2 is shown by no test: " + strings.Repeat("very ", 20) + "…",
	}
	if got := compare(requirements, []claim{{"R9.9", "a_test.go:8"}}, nil); !slices.Equal(got, want) {
		t.Errorf("problems %q, want %q", got, want)
	}
	// What is open need not be shown, may not be, and has to be there.
	for _, test := range []struct {
		name   string
		claims []claim
		open   []string
		want   []string
	}{{
		name:   "open and not shown",
		claims: []claim{{"R1.1", "a_test.go:4"}},
		open:   []string{"R1.2"},
	}, {
		name:   "open and shown",
		claims: all,
		open:   []string{"R1.2"},
		want:   []string{"PROTOCOL.md: R1.2 is called open, and a test shows it"},
	}, {
		name:   "open and not there",
		claims: all,
		open:   []string{"R1.3"},
		want:   []string{"PROTOCOL.md: R1.3 is called open and is no requirement"},
	}, {
		name: "another is open",
		open: []string{"R1.2"},
		want: []string{"PROTOCOL.md:3: R1.1 is shown by no test: It MUST."},
	}} {
		if got := compare(requirements, test.claims, test.open); !slices.Equal(got, test.want) {
			t.Errorf("%s: problems %q, want %q", test.name, got, test.want)
		}
	}
}

func TestOpenRequirements(t *testing.T) {
	for text, want := range map[string][]string{
		"# P\n\nNothing.\n": nil,
		"# P\n\nOpen in this repository: R1.2, R10.31.\n":                    {"R1.2", "R10.31"},
		"# P\n\nOpen in this repository: R1.2,\nR3.4.\n\nR5.6 is another.\n": {"R1.2", "R3.4"},
		"# P\n\nNot Open in this repository: R1.2.\n":                        nil,
	} {
		if got := openRequirements(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestModuleRootAndTestFiles(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{
		"go.mod", "a_test.go", "a.go", "x/y/b_test.go", "x/_c_test.go", "x/.d_test.go", "x/test.go",
		"x/testdata/e_test.go", ".git/f_test.go", "_old/g_test.go", "vendor/h_test.go", "inner/go.mod", "inner/i_test.go", "inner/deep/j_test.go",
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("package p\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := testFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a_test.go", "x/y/b_test.go"}; !slices.Equal(files, want) {
		t.Errorf("found %q, want %q", files, want)
	}
	for dir, want := range map[string]string{".": ".", "x/y": ".", "inner/deep": "inner"} {
		got, err := moduleRoot(filepath.Join(root, filepath.FromSlash(dir)))
		if err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		if want := filepath.Join(root, want); got != want {
			t.Errorf("%s belongs to %s, want %s", dir, got, want)
		}
	}
	if got, err := moduleRoot(filepath.VolumeName(root) + string(filepath.Separator)); err == nil {
		t.Errorf("a module at %s", got)
	}
}
