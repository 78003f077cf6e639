// Command english counts constructions that make prose hard to read in the comments of non-test Go files and in Markdown
// files, and fails where a group stands more often than the limit per 1,000 words.
//
//	go run .ci/english.go            # the whole repository, the gate
//	go run .ci/english.go -v state   # one folder, with a line for each hit
package main

import (
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// limit is the largest number of hits of one group in 1,000 words.
const limit = 0.7

// groups are the constructions. Packets, errors and functions carry, contain, report and return; they do not speak. A noun
// replaces a clause that begins with "what". Protocol actors have names.
var groups = []struct {
	name    string
	pattern *regexp.Regexp
}{
	{"says, tells", regexp.MustCompile(`(?i)\b(says?|said|saying|tells?|told|telling)\b`)},
	{"what it is", regexp.MustCompile(`(?i)\bwhat(ever)? (it|they|he|came|comes?|waits?|waited|there (is|was|are)|is|was|are|goes|went|stands?|has|had|remains?|belongs?|follows?|must|may|can|cannot)\b`)},
	{"nobody, whoever", regexp.MustCompile(`(?i)\b(nobody|somebody|no one|someone|whoever)\b`)},
}

var (
	word      = regexp.MustCompile(`[A-Za-z][A-Za-z'’-]*`)
	inlineRaw = regexp.MustCompile("`[^`]*`")
)

// text is prose with the place where it stands.
type text struct {
	where string
	words string
}

func main() {
	verbose := flag.Bool("v", false, "print each hit")
	flag.Parse()
	roots := flag.Args()
	if len(roots) == 0 {
		roots = []string{"."}
	}
	var goTexts, markdown []text
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
				return fs.SkipDir
			case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
				goTexts, err = appendComments(goTexts, path)
			case strings.HasSuffix(path, ".md"):
				markdown, err = appendMarkdown(markdown, path)
			}
			return err
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	over := report("Go comments", goTexts, *verbose)
	if report("Markdown", markdown, *verbose) || over {
		os.Exit(1)
	}
}

// appendComments appends the comments of a Go file, without directives.
func appendComments(texts []text, path string) ([]text, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, group := range file.Comments {
		for _, comment := range group.List {
			if !strings.HasPrefix(comment.Text, "//go:") {
				texts = append(texts, text{set.Position(comment.Pos()).String(), comment.Text})
			}
		}
	}
	return texts, nil
}

// appendMarkdown appends the lines of a Markdown file that are not code.
func appendMarkdown(texts []text, path string) ([]text, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fenced := false
	for i, line := range strings.Split(string(source), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		} else if !fenced {
			texts = append(texts, text{fmt.Sprintf("%s:%d", path, i+1), inlineRaw.ReplaceAllString(line, "")})
		}
	}
	return texts, nil
}

// report prints one line for each group and reports whether one is over the limit.
func report(kind string, texts []text, verbose bool) (over bool) {
	words := 0
	for _, t := range texts {
		words += len(word.FindAllString(t.words, -1))
	}
	if words == 0 {
		return false
	}
	for _, group := range groups {
		hits := 0
		for _, t := range texts {
			n := len(group.pattern.FindAllString(t.words, -1))
			if hits += n; n > 0 && verbose {
				fmt.Printf("%s: %s\n", t.where, strings.TrimSpace(t.words))
			}
		}
		rate := 1000 * float64(hits) / float64(words)
		verdict := "ok"
		if rate > limit {
			over, verdict = true, fmt.Sprintf("over %.1f", limit)
		}
		fmt.Printf("%-12s %-16s %4d in %6d words, %.2f per 1,000: %s\n", kind, group.name, hits, words, rate, verdict)
	}
	return over
}
