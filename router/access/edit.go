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
	// ErrDuplicate means that Add was given an identity or a name that the file has.
	ErrDuplicate = errors.New("it is in the list already")

	// ErrUnknown means that Remove found no such client.
	ErrUnknown = errors.New("no such client in the list")

	// ErrAmbiguous means that Remove was given a name that several clients have.
	ErrAmbiguous = errors.New("several clients have this name")

	// ErrEntry means that Add was given what no line can hold.
	ErrEntry = errors.New("not a usable entry")
)

// Add writes a client into the file, behind all that is in it; e.Line is ignored.
// A file that is not there is made, with mode 0600. The errors are those of Load,
// and ErrDuplicate and ErrEntry.
//
// The file is replaced as a whole, so that no reader sees half of it and a crash
// leaves the old one or the new one. Mode and owner stay, and so does every other
// line, byte for byte.
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
				return nil, fmt.Errorf("access: add %v to %s: %w, in line %d: %v", e.Identity, path, ErrDuplicate, old.Line, old)
			}
			if old.Name == e.Name && e.Name != "" {
				return nil, fmt.Errorf("access: add %v to %s: the name %q: %w, in line %d: %v; choose another name", e.Identity, path, e.Name, ErrDuplicate, old.Line, old)
			}
		}
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		text = append(append(text, line...), '\n')
		if len(text) > MaxSize || len(l.entries) == most {
			return nil, fmt.Errorf("access: add %v to %s: the list is then %w: at most %d bytes and %d clients", e.Identity, path, ErrTooLarge, MaxSize, most)
		}
		return text, nil
	})
}

// Remove takes a client's line out of the file and returns the client. It is found
// by its identity or by its name; a name that several have is ErrAmbiguous, one
// that is not there ErrUnknown. What Add says about the file holds here as well.
func Remove(path, idOrName string) (Entry, error) {
	var gone Entry
	err := edit(path, MaxEntries, func(text []byte, l *List) ([]byte, error) {
		e, err := l.find(idOrName)
		if err != nil {
			return nil, fmt.Errorf("access: remove %q from %s: %w", shorten(idOrName), path, err)
		}
		gone = e
		start, end := lineBounds(text, e.Line)
		return append(text[:start], text[end:]...), nil
	})
	if err != nil {
		return Entry{}, err
	}
	return gone, nil
}

// find returns the one client with an identity or a name.
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
		return Entry{}, fmt.Errorf("%w; give the identity or the name of one that is", ErrUnknown)
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
	return Entry{}, fmt.Errorf("%w, in lines %s; give the identity of the one meant", ErrAmbiguous, strings.Join(lines, ", "))
}

// render returns an entry's line, once that is sure to be read as the same entry.
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
		return "", fmt.Errorf("%w: %q would be read as something else", ErrEntry, shorten(line))
	}
	return line, nil
}

// lineBounds returns where a line of text begins and where the next one does.
func lineBounds(text []byte, line int) (start, end int) {
	for ; line > 1; line-- {
		start += bytes.IndexByte(text[start:], '\n') + 1
	}
	if i := bytes.IndexByte(text[start:], '\n'); i >= 0 {
		return start, start + i + 1
	}
	return start, len(text)
}

// edit replaces a file, with most clients in it or fewer, by what change makes of
// its text.
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
	text, err = change(text, l)
	if err != nil {
		return err
	}
	return replace(path, text, before)
}

// follow returns the file that a path leads to: a link is not what is replaced.
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
