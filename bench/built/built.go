// Package built builds the real program for tests that run it as it is, in processes of its
// own.
package built

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Test builds the program, runs the tests of m with the program's path in file, and returns
// their exit code. It is what a TestMain is made of: the program is built once, and gone
// when the tests are done.
func Test(m *testing.M, file *string) int {
	dir, err := os.MkdirTemp("", "lewes-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	*file = filepath.Join(dir, "lewes.exe") // a name that runs on every system
	build := exec.Command("go", "build", "-o", *file, "lewes/cmd/lewes")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the program:", err)
		return 1
	}
	return m.Run()
}
