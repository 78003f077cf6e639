package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// readmeTests names the test that runs the command blocks of a section of the project's README.md.
var readmeTests = map[string]string{
	"Try it":                   "TestReadmeTry, below",
	"Run it":                   "TestReadmeRun in bench/e2e, TestReadme in deploy/package",
	"Through two gateways":     "TestReadmeChain in bench/e2e",
	"Import it":                "TestReadmeImport in bench/e2e",
	"Charge for it":            "TestReadmeCharge in bench/e2e",
	"Operate a gateway":        "TestReadmeOperate in bench/e2e",
	"How fast":                 "TestReadmeMeasurements, below",
	"Upgrade without loss":     "TestReadmeMeasurements, below",
	"Under attack":             "TestReadmeMeasurements, below",
	"Where things are":         "TestReadmeMeasurements, below",
	"The path of a datagram":   "", // a drawing
	"How large a datagram may": "",
}

type readmeBlock struct{ section, language, text string }

func readmeBlocks(t *testing.T) (blocks []readmeBlock) {
	t.Helper()
	section := ""
	for _, m := range regexp.MustCompile("(?ms)^##+ (.*?)$|^```(\\w*)\n(.*?)^```$").FindAllStringSubmatch(read("../README.md"), -1) {
		if m[1] != "" {
			section = m[1]
			continue
		}
		blocks = append(blocks, readmeBlock{section, m[2], m[3]})
	}
	return blocks
}

// TestReadmeIsTested: a test is known for each block of commands.
func TestReadmeIsTested(t *testing.T) {
	for _, b := range readmeBlocks(t) {
		if readmeTests[b.section] == "" && b.language != "" {
			t.Errorf("section %q: which test runs this?\n%s", b.section, b.text)
		}
	}
}

// TestReadmeTry runs the section for those who try it. The program is built already, and the tests run elsewhere.
func TestReadmeTry(t *testing.T) {
	for line := range strings.Lines(readmeSection(t, "Try it")) {
		command, _, _ := strings.Cut(line, "  #")
		switch command = strings.TrimSpace(command); {
		case strings.HasPrefix(command, "./lewes "):
			cmd := exec.Command("sh", "-euc", command)
			cmd.Dir, cmd.Env = filepath.Dir(lewes), append(os.Environ(), "HOME="+t.TempDir())
			run(t, cmd)
		case command == "sudo deploy/localnet test": // TestChecks in bench/e2e/localnet
			if info, err := os.Stat("localnet"); err != nil || info.Mode()&0o111 == 0 {
				t.Errorf("deploy/localnet: %v, %v", info, err)
			}
		case strings.HasPrefix(command, "CGO_ENABLED=0 go build ") && strings.HasSuffix(command, " -o lewes ./cmd/lewes"), command == "go test ./...":
		default:
			t.Errorf("nothing runs %q", command)
		}
	}
}

// TestReadmeMeasurements: what the commands that test and measure for long refer to exists.
func TestReadmeMeasurements(t *testing.T) {
	n := 0
	for _, b := range readmeBlocks(t) {
		if !strings.HasPrefix(readmeTests[b.section], "TestReadmeMeasurements") || b.language != "sh" {
			continue
		}
		for line := range strings.Lines(b.text) {
			command, _, _ := strings.Cut(strings.TrimSpace(line), "  #")
			n++
			switch words := strings.Fields(command); {
			case strings.HasPrefix(command, "go test "):
				checkGoTest(t, words[2:])
			case strings.HasPrefix(command, "go run ./bench"):
				for _, flag := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(command, -1) {
					if !contains(t, "../bench/*.go", `"`+flag[1]+`"`) {
						t.Errorf("%s: no flag %s", command, flag[1])
					}
				}
			case strings.HasSuffix(words[len(words)-2], ".ci/run"):
				variable, _, _ := strings.Cut(command, "=")
				if !contains(t, "../.ci/run", "stage_"+words[len(words)-1]+"()") || !contains(t, "../.ci/run", variable) {
					t.Errorf("%s: not in .ci/run", command)
				}
			default:
				t.Errorf("nothing checks %q", command)
			}
		}
	}
	if n < 5 {
		t.Errorf("%d commands", n)
	}
}

// checkGoTest checks the arguments of go test: a package, the tests to run, and flags.
func checkGoTest(t *testing.T, args []string) {
	t.Helper()
	files := filepath.Join("..", strings.Trim(args[0], "./"), "*_test.go")
	for i := 1; i < len(args); i++ {
		name, _, _ := strings.Cut(strings.TrimPrefix(args[i], "-"), "=")
		switch name {
		case "v":
		case "run":
			i++
			if !contains(t, files, "func Test"+strings.TrimPrefix(strings.Trim(args[i], `'$^`), "Test")) {
				t.Errorf("go test %s: no test %s", args[0], args[i])
			}
		default:
			if !contains(t, files, `"`+name+`"`) {
				t.Errorf("go test %s: no flag %s", args[0], name)
			}
		}
	}
}

// contains reports whether a file that matches the pattern contains a text.
func contains(t *testing.T, pattern, text string) bool {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", pattern, err)
	}
	for _, file := range files {
		if strings.Contains(read(file), text) {
			return true
		}
	}
	return false
}

// readmeSection returns the only block of shell commands of a section.
func readmeSection(t *testing.T, title string) string {
	t.Helper()
	for _, b := range readmeBlocks(t) {
		if b.section == title && b.language == "sh" {
			return b.text
		}
	}
	t.Fatalf("README.md has no commands in section %q", title)
	return ""
}

// TestLinks: links of the documents lead to files and headings that exist.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s#]*)(?:#([^)\s]*))?\)`)
	for _, file := range []string{"../README.md", "README.md", "OPERATING.md", "../transport/PROTOCOL.md", "../bench/RESULTS.md"} {
		for _, m := range link.FindAllStringSubmatch(read(file), -1) {
			to := file
			if strings.Contains(m[1], ":") {
				continue // on the Internet
			}
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(file), m[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %v", file, err)
			} else if m[2] != "" && !slices.Contains(anchors(read(to)), m[2]) {
				t.Errorf("%s: %s has no heading for #%s", file, to, m[2])
			}
		}
	}
}

// anchors returns the names by which links find the headings of a document.
func anchors(text string) (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}
