package access

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/router/textfile"
)

// Limits of a file.
const (
	MaxSize    = 64 << 20 // bytes
	MaxEntries = 1_000_000
	MaxLine    = 1 << 10 // bytes, without the line's end
	MaxName    = 64      // bytes
)

var (
	// ErrTooLarge means that a file exceeds MaxSize or MaxEntries.
	ErrTooLarge = errors.New("too large")

	// ErrPermissions means that users other than the owner may write the file, and
	// so grant themselves access.
	ErrPermissions = errors.New("others can write it")

	// ErrNotFile means that the path is not a regular file.
	ErrNotFile = errors.New("not a regular file")
)

// Entry is one client.
type Entry struct {
	Identity identity.PublicKey
	Name     string // one word, may be empty
	Limits   account.Limits
	Comment  string // may be empty
	Line     int    // number in the file, from 1
}

// String returns the entry's line.
func (e Entry) String() string {
	line := e.Identity.String()
	if e.Name != "" {
		line += "  " + e.Name
	}
	if limits := FormatLimits(e.Limits); limits != "" {
		line += "  " + limits
	}
	if e.Comment != "" {
		line += "  # " + e.Comment
	}
	return line
}

// List is the content of a file.
type List struct {
	path    string
	state   fs.FileInfo // of the file before it was read; nil if it did not exist
	entries []Entry
	index   map[identity.PublicKey]int32 // into entries

	expires bool // a client has an expiry
	bytes   bool // a client has a limit of bytes

	invalid []*LineError // the first maxInvalid
	wrong   int          // number of invalid lines
}

// maxInvalid limits the invalid lines that a List holds and an error names.
const maxInvalid = 5

// Find returns the limits of a client, and false if the client is not in the list.
func (l *List) Find(client identity.PublicKey) (account.Limits, bool) {
	i, found := l.index[client]
	if !found {
		return account.Limits{}, false
	}
	return l.entries[i].Limits, true
}

// Name returns the name of a client, or the empty string.
func (l *List) Name(client identity.PublicKey) string {
	if i, found := l.index[client]; found {
		return l.entries[i].Name
	}
	return ""
}

// Expired returns the clients whose last day has ended after one instant and not after another.
func (l *List) Expired(after, until time.Time) (clients []identity.PublicKey) {
	if !l.expires {
		return nil
	}
	for i := range l.entries {
		if e := &l.entries[i]; e.Limits.Expired(until) && !e.Limits.Expired(after) {
			clients = append(clients, e.Identity)
		}
	}
	return clients
}

// LimitsBytes reports whether a client has a limit of bytes.
func (l *List) LimitsBytes() bool { return l.bytes }

// Entries returns all clients in the order of the file. The caller must not modify the slice.
func (l *List) Entries() []Entry { return l.entries }

// Invalid returns the first five invalid lines of the file, which admit no client. The caller must not
// modify the slice.
func (l *List) Invalid() []*LineError { return l.invalid }

// Err returns nil if every line is valid, else an *InvalidError.
func (l *List) Err() error {
	if l.wrong == 0 {
		return nil
	}
	return &InvalidError{Lines: l.invalid, Count: l.wrong}
}

// Diff compares two lists. It returns the clients that only after has, those that only before has, and
// those whose limits differ.
func Diff(before, after *List) (added, removed, changed []identity.PublicKey) {
	for _, e := range after.entries {
		switch limits, found := before.Find(e.Identity); {
		case !found:
			added = append(added, e.Identity)
		case limits != e.Limits:
			changed = append(changed, e.Identity)
		}
	}
	for _, e := range before.entries {
		if _, found := after.index[e.Identity]; !found {
			removed = append(removed, e.Identity)
		}
	}
	return added, removed, changed
}

// Load reads a file. A missing file is no error: the list is empty. Nor is an invalid line: it admits
// no client, and Err reports it. Errors wrap ErrTooLarge, ErrPermissions, ErrNotFile or a system error.
func Load(path string) (*List, error) {
	text, state, err := read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := parse(path, text, MaxEntries)
	if err != nil {
		return nil, err
	}
	l.state = state
	return l, nil
}

// read returns a file's content and its state before it was read.
func read(path string) ([]byte, fs.FileInfo, error) {
	// Check before opening, which would block on a pipe.
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, fmt.Errorf("access: list of clients %s: %w; run this as root or as the gateway's user", path, err)
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

// lineForm is the end of every error about a line.
const lineForm = `a line is an identity, then a name of one word, limits and "# " with a comment, such as: 9qAx…3kF  anna-phone  sessions=2 rate=10MiB  # since May`

// minIdentity is the length of the shortest identity in base58.
const minIdentity = identity.PublicKeySize

var (
	errUTF8        = errors.New("not UTF-8 text")
	errUnprintable = errors.New("unprintable character")
	errLong        = fmt.Errorf("longer than %d bytes", MaxLine)
	errName        = errors.New("not a name")
	errWords       = errors.New(`only limits and a comment, after "# ", may follow the name, which is one word`)
	errTwice       = errors.New("the identity is in the file twice")
)

// LineError is an invalid line.
type LineError struct {
	Path  string
	Line  int    // from 1
	Value string // the invalid part, at most 64 bytes of it
	Err   error
}

func (e *LineError) Error() string {
	return fmt.Sprintf("access: list of clients %s, line %d: %q: %v; %s", e.Path, e.Line, e.Value, e.Err, lineForm)
}

// Unwrap returns Err.
func (e *LineError) Unwrap() error { return e.Err }

// InvalidError lists the invalid lines of a file.
type InvalidError struct {
	Lines []*LineError // the first five
	Count int          // of all
}

func (e *InvalidError) Error() string {
	if e.Count == 1 {
		return e.Lines[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "access: list of clients %s has %d invalid lines:", e.Lines[0].Path, e.Count)
	for _, l := range e.Lines {
		fmt.Fprintf(&b, "\n  line %d: %q: %v", l.Line, l.Value, l.Err)
	}
	if more := e.Count - len(e.Lines); more > 0 {
		fmt.Fprintf(&b, "\n  and %d more", more)
	}
	fmt.Fprintf(&b, "\n%s", lineForm)
	return b.String()
}

// Unwrap returns the listed lines.
func (e *InvalidError) Unwrap() (lines []error) {
	for _, l := range e.Lines {
		lines = append(lines, l)
	}
	return lines
}

// parse parses a file of at most most clients. path is for errors.
func parse(path string, text []byte, most int) (*List, error) {
	// Names and comments are substrings of all.
	all := string(textfile.TrimBOM(text))
	room := min(strings.Count(all, "\n")+1, len(all)/minIdentity, most)
	l := &List{path: path, entries: make([]Entry, 0, room), index: make(map[identity.PublicKey]int32, room)}
	for n := 1; all != ""; n++ {
		var line string
		line, all, _ = strings.Cut(all, "\n")
		e, found, value, err := parseLine(line)
		if i, twice := l.index[e.Identity]; err == nil && found && twice {
			value, err = e.Identity.String(), fmt.Errorf("%w, also in line %d; remove one of them", errTwice, l.entries[i].Line)
		}
		if err != nil {
			if l.wrong++; l.wrong <= maxInvalid {
				l.invalid = append(l.invalid, &LineError{Path: path, Line: n, Value: shorten(value), Err: err})
			}
			continue
		}
		if !found {
			continue
		}
		if len(l.entries) == most {
			return nil, fmt.Errorf("access: list of clients %s has more than %d clients: %w; split them among gateways", path, most, ErrTooLarge)
		}
		e.Line = n
		l.expires = l.expires || !e.Limits.Expires.IsZero()
		l.bytes = l.bytes || e.Limits.Bytes > 0
		l.index[e.Identity] = int32(len(l.entries))
		l.entries = append(l.entries, e)
	}
	return l, nil
}

// parseLine parses a line without its end. found is false for a line without a
// client. wrong is the invalid part, if there is an error.
func parseLine(line string) (e Entry, found bool, wrong string, err error) {
	line = strings.TrimSuffix(line, "\r")
	if len(line) > MaxLine {
		return Entry{}, false, line, errLong
	}
	if err := printable(line); err != nil {
		return Entry{}, false, line, err
	}
	id, rest := cutWord(line)
	if id == "" || id[0] == '#' {
		return Entry{}, false, "", nil
	}
	if e.Identity, err = identity.ParsePublicKey(id); err != nil {
		return Entry{}, false, id, err
	}
	set := make([]string, 0, len(limitKeys))
	for first := true; rest != "" && rest[0] != '#'; first = false {
		var word string
		before := rest
		word, rest = cutWord(rest)
		key, value, isLimit := strings.Cut(word, "=")
		switch {
		case isLimit && slices.Contains(set, key):
			return Entry{}, false, word, errors.New("the line has this key twice")
		case isLimit:
			if err := setLimit(&e.Limits, key, value); err != nil {
				return Entry{}, false, word, err
			}
			set = append(set, key)
		case first:
			if err := checkName(word); err != nil {
				return Entry{}, false, word, err
			}
			e.Name = word
		default:
			return Entry{}, false, before, errWords
		}
	}
	comment, _ := strings.CutPrefix(rest, "#")
	e.Comment = strings.Trim(comment, " \t")
	return e, true, "", nil
}

// ParseEntry parses a line that has a client. An error has the invalid part and is for people.
func ParseEntry(line string) (Entry, error) {
	e, found, wrong, err := parseLine(line)
	if err == nil && !found {
		wrong, err = line, ErrEntry
	}
	if err != nil {
		return Entry{}, fmt.Errorf("%q: %w", shorten(wrong), err)
	}
	return e, nil
}

// cutWord returns the first word of s, and the rest from the next word on.
func cutWord(s string) (word, rest string) {
	s = strings.TrimLeft(s, " \t")
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimLeft(s[i:], " \t")
	}
	return s, ""
}

// checkName returns an error if name is not valid as a client's name.
func checkName(name string) error {
	if identity.Redact(name) != name {
		return identity.ErrPrivateKey
	}
	switch {
	case len(name) > MaxName:
		return fmt.Errorf("%w: longer than %d bytes", errName, MaxName)
	case strings.ContainsAny(name, " \t"):
		return fmt.Errorf("%w: more than one word", errName)
	case strings.Contains(name, "="):
		return fmt.Errorf("%w: it contains =, which belongs to limits, such as sessions=2", errName)
	case strings.Contains(name, "#"):
		return fmt.Errorf("%w: it contains #; put a space before the # of a comment", errName)
	}
	if err := printable(name); err != nil {
		return fmt.Errorf("%w: %w", errName, err)
	}
	if _, err := identity.ParsePublicKey(name); err == nil {
		return fmt.Errorf("%w: it is an identity; a line holds one client", errName)
	}
	return nil
}

// printable returns an error if s cannot be printed on a terminal as it is.
func printable(s string) error {
	if !utf8.ValidString(s) {
		return errUTF8
	}
	for _, r := range s {
		if !unicode.IsPrint(r) && r != '\t' {
			return fmt.Errorf("%w, %U", errUnprintable, r)
		}
	}
	return nil
}

// shorten truncates a value for an error, and masks what may be a private key.
func shorten(s string) string {
	const most = 64
	s = identity.Mask(s)
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}
