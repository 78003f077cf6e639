package issuer

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
	"lewes/router/textfile"
)

// MaxPlans bounds the plans of an issuer, each of which has up to three keys at a time.
const MaxPlans = 8

const day = 24 * time.Hour

// Plan is a named denomination, for which vouchers are made.
type Plan struct {
	Name string
	tickets.Denomination
}

var planName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// ParsePlan parses NAME=SIZE/TIME, such as month=10GiB/30d.
func ParsePlan(s string) (p Plan, err error) {
	name, rest, _ := strings.Cut(s, "=")
	size, period, ok := strings.Cut(rest, "/")
	if !ok || !planName.MatchString(name) {
		return p, fmt.Errorf("plan %q is not NAME=SIZE/TIME, such as month=10GiB/30d; a name has small letters, digits and hyphens", s)
	}
	p.Name = name
	if p.Bytes, err = textfile.ParseSize(size); err != nil {
		return p, fmt.Errorf("plan %s: %w", name, err)
	}
	var length time.Duration
	if days, ok := strings.CutSuffix(period, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		length = time.Duration(n) * day
	} else {
		length, err = time.ParseDuration(period)
	}
	if err != nil || length%time.Second != 0 {
		return p, fmt.Errorf(`plan %s: %q is not a time: write "30d" or "12h"`, name, period)
	}
	p.Seconds = uint32(min(max(length/time.Second, 0), math.MaxUint32))
	if !p.Denomination.Valid() {
		return p, fmt.Errorf("plan %s: %s for %s is not within 1 byte and 64 PiB, 1 second and %d days", name, size, period, tickets.MaxSeconds/(24*60*60))
	}
	return p, nil
}

// String formats a plan for ParsePlan.
func (p Plan) String() string {
	period := (time.Duration(p.Seconds) * time.Second).String()
	if p.Seconds%uint32(day/time.Second) == 0 {
		period = fmt.Sprintf("%dd", p.Seconds/uint32(day/time.Second))
	}
	return p.Name + "=" + textfile.FormatSize(p.Bytes) + "/" + period
}

// ReadPlans reads the plans of the issuer in a state directory.
func ReadPlans(dir string) (plans []Plan, err error) {
	path := filepath.Join(dir, "plans")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no plans in %s; start the issuer with one first: lewes tickets issuer --plan month=10GiB/30d", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("plans: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		p, err := ParsePlan(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		plans = append(plans, p)
	}
	return plans, checkPlans(plans)
}

func checkPlans(plans []Plan) error {
	if len(plans) == 0 || len(plans) > MaxPlans {
		return fmt.Errorf("%d plans, not 1 to %d", len(plans), MaxPlans)
	}
	for i, p := range plans {
		if slices.ContainsFunc(plans[:i], func(q Plan) bool { return q.Name == p.Name || q.Denomination == p.Denomination }) {
			return fmt.Errorf("plan %v is there twice, by its name or by what it grants", p)
		}
	}
	return nil
}

// writePlans replaces the plans.
func writePlans(dir string, plans []Plan) error {
	if err := checkPlans(plans); err != nil {
		return err
	}
	var b strings.Builder
	for _, p := range plans {
		fmt.Fprintln(&b, p)
	}
	return replaceFile(filepath.Join(dir, "plans"), []byte(b.String()))
}

// replaceFile writes a file of mode 0600 and puts it in the place of another one, durably.
func replaceFile(path string, content []byte) error {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := createFile(temporary, content); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return identity.SyncDir(filepath.Dir(path))
}

// createFile writes a new file of mode 0600, durably. It leaves nothing behind if it fails.
func createFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = chownLikeDirectory(f)
	if err == nil {
		_, err = f.Write(content)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = identity.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}
