package access

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"lewes/crypto/identity"
)

// What a file may hold at most.
const (
	MaxSize    = 64 << 20 // bytes
	MaxEntries = 1_000_000
	MaxLine    = 1 << 10 // bytes, without the line's end
	MaxName    = 64      // bytes
)

var (
	// ErrTooLarge means a file larger than MaxSize or with more than MaxEntries.
	ErrTooLarge = errors.New("too large")

	// ErrPermissions means that others than its owner may write a file, and so give
	// themselves access.
	ErrPermissions = errors.New("others can write it")

	// ErrNotFile means that what is at the path is no file.
	ErrNotFile = errors.New("not a regular file")
)

// Entry is one client.
type Entry struct {
	Identity identity.PublicKey
	Name     string // one word, may be empty
	Comment  string // may be empty
	Line     int    // where it stands in the file, from 1
}

// String returns the entry as its line reads.
func (e Entry) String() string {
	line := e.Identity.String()
	if e.Name != "" {
		line += "  " + e.Name
	}
	if e.Comment != "" {
		line += "  # " + e.Comment
	}
	return line
}

// List is what a file said when it was read.
type List struct {
	entries []Entry
	index   map[identity.PublicKey]int32 // into entries
	missing bool
}

// Contains tells whether a client is in the list.
func (l *List) Contains(client identity.PublicKey) bool {
	_, found := l.index[client]
	return found
}

// Entries returns all clients in the order of the file. The caller must not modify
// it.
func (l *List) Entries() []Entry { return l.entries }

// Missing tells whether there was no file; the list is then empty.
func (l *List) Missing() bool { return l.missing }

// Load reads a file. That there is none is no error: the list is empty, and
// Missing. A line that cannot be read gives a *LineError; other errors wrap
// ErrTooLarge, ErrPermissions, ErrNotFile or the system's.
func Load(path string) (*List, error) {
	text, _, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &List{missing: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return parse(path, text, MaxEntries)
}

// read returns what a file holds, and what it was before it was read.
func read(path string) ([]byte, fs.FileInfo, error) {
	// Before it is opened, which would wait for a pipe's other end.
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("access: list of clients %s: %w", path, err)
	case !info.Mode().IsRegular():
		return nil, nil, fmt.Errorf("access: list of clients %s: %w; name a text file", path, ErrNotFile)
	case info.Mode().Perm()&0o022 != 0 && runtime.GOOS != "windows":
		return nil, nil, fmt.Errorf("access: list of clients %s has mode %04o: %w; run: chmod go-w %s", path, info.Mode().Perm(), ErrPermissions, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("access: list of clients %s cannot be opened: %w", path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("access: list of clients %s cannot be read: %w", path, err)
	}
	if len(text) > MaxSize {
		return nil, nil, fmt.Errorf("access: list of clients %s is larger than %d bytes: %w; split the clients among gateways", path, MaxSize, ErrTooLarge)
	}
	return text, info, nil
}
