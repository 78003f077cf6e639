package main

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra/doc"
)

// init writes manual pages and completions to the directory $LEWES_FILES, and exits. The
// packager builds this file into cmd/lewes, for whose module the manual's library would be a dependency.
func init() {
	if err := writePackageFiles(os.Getenv("LEWES_FILES"), os.Getenv("LEWES_DATE"), os.Getenv("LEWES_VERSION")); err != nil {
		panic(err)
	}
	os.Exit(exitOK)
}

func writePackageFiles(dir, date, version string) error {
	at, err := time.Parse(time.RFC3339, date)
	if err != nil {
		return err
	}
	root := newRoot()
	root.DisableAutoGenTag = true
	root.InitDefaultHelpCmd()
	manual := filepath.Join(dir, "man1")
	if err := os.Mkdir(manual, 0o755); err != nil {
		return err
	}
	header := &doc.GenManHeader{Section: "1", Date: &at, Source: "lewes " + version, Manual: "Lewes"}
	if err := doc.GenManTree(root, header, manual); err != nil {
		return err
	}
	pages, err := filepath.Glob(filepath.Join(manual, "*.1"))
	if err != nil {
		return err
	}
	for _, page := range pages {
		if err := compress(page); err != nil {
			return err
		}
	}
	return errors.Join(
		root.GenBashCompletionFileV2(filepath.Join(dir, "bash"), true),
		root.GenZshCompletionFile(filepath.Join(dir, "zsh")),
		root.GenFishCompletionFile(filepath.Join(dir, "fish"), true),
	)
}

// compress replaces a file by its compressed form, without a time stamp.
func compress(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := os.Create(path + ".gz")
	if err != nil {
		return err
	}
	w, err := gzip.NewWriterLevel(file, gzip.BestCompression)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, string(text))
	return errors.Join(err, w.Close(), file.Close(), os.Remove(path))
}
