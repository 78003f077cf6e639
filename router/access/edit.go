package access

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"lewes/crypto/identity"
	"lewes/router/textfile"
)

const (
	// lockTimeout bounds the wait for another editor, who needs milliseconds.
	lockTimeout = 5 * time.Second
	lockRetry   = 20 * time.Millisecond
)

var (
	// ErrDuplicate means that the identity or name to add is already in the file.
	ErrDuplicate = errors.New("already in the list")

	// ErrUnknown means that the client to remove is not in the file.
	ErrUnknown = errors.New("no such client in the list")

	// ErrAmbiguous means that several clients have the name to remove.
	ErrAmbiguous = errors.New("several clients have this name")

	// ErrEntry means that the entry to add cannot be written as a line.
	ErrEntry = errors.New("not a usable entry")

	// ErrValid means that the line to remove is valid or holds no client.
	ErrValid = errors.New("not an invalid line")

	// ErrLocked means that another program keeps the directory of the file locked.
	ErrLocked = errors.New("locked by another program")

	// ErrChanged means that another program changed the file during the edit.
	ErrChanged = errors.New("another program changed it meanwhile")
)

// Add appends a client to the file, and ignores e.Line. It creates a missing file
// with mode 0600. The errors are those of Load, ErrDuplicate, ErrEntry, ErrLocked and ErrChanged.
// Invalid lines stay as they are.
//
// The file is replaced atomically: readers, and the disk after a crash, have the
// old or the new one. Mode, owner and all other lines stay as they are.
func Add(path string, e Entry) error { return add(path, e, MaxEntries) }

func add(path string, e Entry, most int) error {
	e.Comment = strings.Trim(e.Comment, " \t")
	line, err := render(e)
	if err != nil {
		return fmt.Errorf("access: add %v to %s: %w", e.Identity, path, err)
	}
	return edit(path, most, func(text []byte, l *List) ([]byte, error) {
		for _, old := range l.entries {
			if old.Identity == e.Identity {
				return nil, fmt.Errorf("access: add %v to %s: %w, line %d: %v; edit that line to change it", e.Identity, path, ErrDuplicate, old.Line, old)
			}
			if old.Name == e.Name && e.Name != "" {
				return nil, fmt.Errorf("access: add %v to %s: the name %q: %w, line %d: %v; choose another name", e.Identity, path, e.Name, ErrDuplicate, old.Line, old)
			}
		}
		for _, bad := range l.invalidLines(text) {
			if bad.Identity == e.Identity {
				return nil, fmt.Errorf("access: add %v to %s: %w, in line %d, which is invalid; remove it first", e.Identity, path, ErrDuplicate, bad.Line)
			}
		}
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		text = append(append(text, line...), '\n')
		if len(text) > MaxSize || len(l.entries) == most {
			return nil, fmt.Errorf("access: add %v to %s: list %w: at most %d bytes and %d clients", e.Identity, path, ErrTooLarge, MaxSize, most)
		}
		return text, nil
	})
}

// Remove deletes the line of the client with this identity or name, and invalid lines with the same
// identity, which would count once that line is gone. If there is no such client, it deletes the
// invalid line that begins with the identity, or with an identity and the name. It returns the client,
// of an invalid line the legible part. The errors are those of Load, ErrUnknown, ErrAmbiguous,
// ErrLocked and ErrChanged. The file is replaced as by Add.
func Remove(path, idOrName string) (Entry, error) {
	var removed Entry
	err := edit(path, MaxEntries, func(text []byte, l *List) ([]byte, error) {
		found, err := l.find(text, idOrName)
		if err != nil {
			return nil, fmt.Errorf("access: remove %q from %s: %w", shorten(idOrName), path, err)
		}
		removed = found[0]
		slices.SortFunc(found, func(a, b Entry) int { return b.Line - a.Line })
		for _, e := range found {
			text = deleteLine(text, e.Line)
		}
		return text, nil
	})
	if err != nil {
		return Entry{}, err
	}
	return removed, nil
}

// RemoveInvalid deletes an invalid line, numbered from 1, and returns it. The errors are those of Load,
// ErrValid, ErrLocked and ErrChanged. The file is replaced as by Add.
func RemoveInvalid(path string, line int) (removed string, err error) {
	err = edit(path, MaxEntries, func(text []byte, l *List) ([]byte, error) {
		for _, bad := range l.invalidLines(text) {
			if bad.Line == line {
				start, end := lineBounds(text, line)
				removed = strings.TrimRight(string(text[start:end]), "\r\n")
				return deleteLine(text, line), nil
			}
		}
		return nil, fmt.Errorf("access: remove line %d from %s: %w; remove a client by its identity or name", line, path, ErrValid)
	})
	return removed, err
}

// invalidLine is a line that admits no client.
type invalidLine struct {
	Entry        // the legible part
	word  string // the first
}

// invalidLines returns all invalid lines of the text of l.
func (l *List) invalidLines(text []byte) (found []invalidLine) {
	if l.wrong == 0 {
		return nil
	}
	valid := l.entries
	n := 0
	for line := range strings.Lines(string(textfile.TrimBOM(text))) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if len(valid) > 0 && valid[0].Line == n {
			valid = valid[1:]
			continue
		}
		if _, client, _, err := parseLine(line); err == nil && !client {
			continue
		}
		bad := invalidLine{Entry: Entry{Line: n}}
		var rest string
		bad.word, rest = cutWord(line)
		bad.Identity, _ = identity.ParsePublicKey(bad.word) // zero if it is none
		if name, _ := cutWord(rest); checkName(name) == nil {
			bad.Name = name
		}
		found = append(found, bad)
	}
	return found
}

// find returns the lines of the only client with an identity or a name, a valid one first.
func (l *List) find(text []byte, idOrName string) (found []Entry, err error) {
	if idOrName == "" {
		return nil, ErrUnknown
	}
	id, err := identity.ParsePublicKey(idOrName)
	byName := err != nil
	invalid := l.invalidLines(text)
	if byName {
		for _, e := range l.entries {
			if e.Name == idOrName {
				found = append(found, e)
			}
		}
		for _, bad := range invalid {
			if bad.Name == idOrName || bad.word == idOrName {
				found = append(found, bad.Entry)
			}
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%w; give the identity or name of a client in it", ErrUnknown)
		}
		id = found[0].Identity
		if slices.ContainsFunc(found[1:], func(e Entry) bool { return e.Identity != id || id == identity.PublicKey{} }) {
			return nil, ambiguous(found)
		}
		if id == (identity.PublicKey{}) {
			return found, nil
		}
		found = nil
	}
	if i, listed := l.index[id]; listed {
		found = append(found, l.entries[i])
	}
	for _, bad := range invalid {
		if bad.Identity == id {
			found = append(found, bad.Entry)
		}
	}
	if len(found) == 0 {
		return nil, ErrUnknown
	}
	return found, nil
}

// ambiguous returns the error for several lines with one name.
func ambiguous(found []Entry) error {
	const most = 10
	var lines []string
	for _, e := range found[:min(len(found), most)] {
		lines = append(lines, strconv.Itoa(e.Line))
	}
	if len(found) > most {
		lines = append(lines, "…")
	}
	return fmt.Errorf("%w, lines %s; give the identity instead", ErrAmbiguous, strings.Join(lines, ", "))
}

// render returns an entry's line, after checking that it parses to the same entry.
func render(e Entry) (string, error) {
	if err := checkName(e.Name); err != nil {
		return "", fmt.Errorf("%w: %q: %w", ErrEntry, shorten(e.Name), err)
	}
	line := e.String()
	got, found, wrong, err := parseLine(line)
	if err != nil {
		return "", fmt.Errorf("%w: %q: %w", ErrEntry, shorten(wrong), err)
	}
	got.Line = e.Line
	if !found || got != e {
		return "", fmt.Errorf("%w: %q parses differently", ErrEntry, shorten(line))
	}
	return line, nil
}

// lineBounds returns the start of a line and of the next line.
func lineBounds(text []byte, line int) (start, end int) {
	for ; line > 1; line-- {
		start += bytes.IndexByte(text[start:], '\n') + 1
	}
	if i := bytes.IndexByte(text[start:], '\n'); i >= 0 {
		return start, start + i + 1
	}
	return start, len(text)
}

// deleteLine deletes a line from text, in place. A byte order mark before the first line stays.
func deleteLine(text []byte, line int) []byte {
	start, end := lineBounds(text, line)
	if line == 1 {
		start = len(text) - len(textfile.TrimBOM(text))
	}
	return append(text[:start], text[end:]...)
}

// edit replaces a file of at most most clients by the result of change.
func edit(path string, most int, change func(text []byte, l *List) ([]byte, error)) error {
	path, err := follow(path)
	if err != nil {
		return err
	}
	unlock, err := lock(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("access: list of clients %s cannot be edited: %w", path, err)
	}
	defer unlock()

	text, before, err := read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := parse(path, text, most)
	if err != nil {
		return err
	}
	if text, err = change(text, l); err != nil {
		return err
	}
	return replace(path, text, before)
}

// follow resolves symbolic links, so that their target is replaced.
func follow(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if err == nil {
		return target, nil
	}
	if _, lerr := os.Lstat(path); errors.Is(lerr, fs.ErrNotExist) {
		return path, nil // no file yet
	}
	return "", fmt.Errorf("access: list of clients %s: %w", path, err)
}

// replace replaces the file at path. before is its state when it was read, nil if it did not exist.
func replace(path string, text []byte, before fs.FileInfo) (err error) {
	defer func() {
		if err != nil {
			remedy := ""
			if errors.Is(err, fs.ErrPermission) {
				remedy = "; run this as root or as the gateway's user"
			}
			err = fmt.Errorf("access: list of clients %s cannot be written: %w%s", path, err, remedy)
		}
	}()
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := keepAccess(f, dir, before); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if !sameFile(stat(path), before) {
		return fmt.Errorf("%w; try again", ErrChanged)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return identity.SyncDir(dir)
}

// keepAccess gives a new file the mode and the owner of the file it replaces. If it
// replaces none, it gets the directory's owner if permitted, so that a service can
// read a file that an administrator created for it.
func keepAccess(f *os.File, dir string, before fs.FileInfo) error {
	if before != nil {
		// The owner first, since changing it may change the mode.
		if err := chownLike(f, before); err != nil {
			return fmt.Errorf("cannot keep its owner: %w", err)
		}
		return f.Chmod(before.Mode().Perm())
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := chownLike(f, info); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}
