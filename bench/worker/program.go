package worker

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// RunTests builds cmd/lewes, stores the path of the program in file, runs the tests, and
// returns their exit code. The program is removed afterwards.
func RunTests(m interface{ Run() int }, file *string) int {
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
		fmt.Fprintln(os.Stderr, "build lewes:", err)
		return 1
	}
	return m.Run()
}
