package access

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"lewes/crypto/identity"
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

	// ErrChanged means that another program changed the file during the edit.
	ErrChanged = errors.New("another program changed it meanwhile")
)

// Add appends a client to the file, and ignores e.Line. It creates a missing file
// with mode 0600. The errors are those of Load, ErrDuplicate and ErrEntry.
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
				return nil, fmt.Errorf("access: add %v to %s: %w, line %d: %v", e.Identity, path, ErrDuplicate, old.Line, old)
			}
			if old.Name == e.Name && e.Name != "" {
				return nil, fmt.Errorf("access: add %v to %s: the name %q: %w, line %d: %v; choose another name", e.Identity, path, e.Name, ErrDuplicate, old.Line, old)
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

// Remove deletes the line of the client with this identity or name and returns the client. The
// errors are those of Load, ErrUnknown and ErrAmbiguous. The file is replaced as by Add.
func Remove(path, idOrName string) (Entry, error) {
	var removed Entry
	err := edit(path, MaxEntries, func(text []byte, l *List) ([]byte, error) {
		e, err := l.find(idOrName)
		if err != nil {
			return nil, fmt.Errorf("access: remove %q from %s: %w", shorten(idOrName), path, err)
		}
		removed = e
		start, end := lineBounds(text, e.Line)
		return append(text[:start], text[end:]...), nil
	})
	if err != nil {
		return Entry{}, err
	}
	return removed, nil
}

// find returns the only client with an identity or a name.
func (l *List) find(idOrName string) (Entry, error) {
	if id, err := identity.ParsePublicKey(idOrName); err == nil {
		if i, found := l.index[id]; found {
			return l.entries[i], nil
		}
		return Entry{}, ErrUnknown
	}
	var found []Entry
	for _, e := range l.entries {
		if e.Name == idOrName && idOrName != "" {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return Entry{}, fmt.Errorf("%w; give the identity or name of a client in it", ErrUnknown)
	case 1:
		return found[0], nil
	}
	const most = 10
	var lines []string
	for _, e := range found[:min(len(found), most)] {
		lines = append(lines, strconv.Itoa(e.Line))
	}
	if len(found) > most {
		lines = append(lines, "…")
	}
	return Entry{}, fmt.Errorf("%w, lines %s; give the identity instead", ErrAmbiguous, strings.Join(lines, ", "))
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

// edit replaces a file of at most most clients by the result of change.
func edit(path string, most int, change func(text []byte, l *List) ([]byte, error)) error {
	path, err := follow(path)
	if err != nil {
		return err
	}
	unlock, err := lock(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("access: list of clients %s: %w", path, err)
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
			err = fmt.Errorf("access: list of clients %s cannot be written: %w", path, err)
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
