package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	bolterrors "go.etcd.io/bbolt/errors"
)

// Refusals of a change. The ledger is unchanged and goes on.
var (
	ErrSpent        = errors.New("ledger: ticket already spent")
	ErrKeyClosed    = errors.New("ledger: ticket of an epoch whose list of spent tickets is closed")
	ErrGrants       = fmt.Errorf("ledger: account has %d grants, the limit", MaxGrants)
	ErrAccounts     = fmt.Errorf("ledger: %d accounts, the limit", MaxAccounts)
	ErrAttachments  = fmt.Errorf("ledger: account has %d attachments, the limit; earlier ones are still in removal", MaxAttachments)
	ErrAddress      = errors.New("ledger: address held by another account or resting")
	ErrNoAttachment = errors.New("ledger: no such attachment")
	ErrInvalid      = errors.New("ledger: invalid entry")
	ErrClock        = errors.New("ledger: time out of range")
)

// Faults of the store.
var (
	// ErrStorage means that a change was not written, or perhaps not written.
	ErrStorage = errors.New("ledger: storage failed")
	// ErrDamaged means that the file, or a value in it, is not as it was written.
	ErrDamaged = errors.New("ledger: damaged")
	// ErrForeign means that the file is no ledger, or that of another gateway.
	ErrForeign = errors.New("ledger: not this gateway's ledger")
	// ErrNewer means that a newer program wrote the file.
	ErrNewer = errors.New("ledger: written by a newer version")
	// ErrMissing means that there was a ledger at this path and is none.
	ErrMissing = errors.New("ledger: missing")
	// ErrInUse means that another process has the file open.
	ErrInUse = errors.New("ledger: in use by another process")
	// ErrClosed means that Close was called.
	ErrClosed = errors.New("ledger: closed")
	// ErrFull is the ErrStorage of a full disk; the next change tries again.
	ErrFull = fmt.Errorf("%w: no space on the disk", ErrStorage)
	// ErrReadOnly is the ErrStorage of a file or file system that cannot be written.
	ErrReadOnly = fmt.Errorf("%w: read-only", ErrStorage)
)

// sentence returns a failure of the file with its path on the first line and the remedy on the second.
func sentence(path string, err error) error {
	remedy := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrFull):
		remedy = "free space on its file system; registrations that must be written fail until then"
	case errors.Is(err, ErrReadOnly):
		remedy = "make the file and its directory writable for the gateway's user, and its file system read-write"
	case errors.Is(err, ErrMissing):
		remedy = "restore a backup; or, to begin without accounts and accept spent tickets again, remove " + bootFile(path)
	case errors.Is(err, ErrDamaged):
		remedy = "the file was not changed; see lewes ledger check, and restore a backup or go back one transaction with lewes ledger backup --previous"
	case errors.Is(err, ErrForeign):
		remedy = "the file was not changed; name another file, or use the identity that wrote it"
	case errors.Is(err, ErrNewer):
		remedy = "the file was not changed; use the version that wrote it, or a later one"
	case errors.Is(err, ErrInUse):
		remedy = "stop that process first, or name another file; lewes ledger backup also copies and checks the ledger of a running gateway"
	case errors.Is(err, fs.ErrNotExist):
		remedy = "name the file, or its gateway by --state or --config; a gateway makes it once registration.access is set"
	case errors.Is(err, ErrStorage):
		remedy = "check the disk, then restart the gateway: nothing is written until then"
	default:
		return fmt.Errorf("ledger file %s: %w", path, err)
	}
	return fmt.Errorf("ledger file %s: %w\n%s", path, err, remedy)
}

// classify gives an error of the engine or the file system its meaning.
func classify(err error) error {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil:
		return nil
	case is(ErrStorage, ErrDamaged, ErrForeign, ErrNewer, ErrInUse, ErrMissing, ErrClosed):
		return err
	case is(syscall.ENOSPC, syscall.EDQUOT) || strings.Contains(err.Error(), syscall.ENOSPC.Error()): // bbolt hides some
		return fmt.Errorf("%w (%w)", ErrFull, err)
	case is(syscall.EROFS, fs.ErrPermission, bolterrors.ErrDatabaseReadOnly):
		return fmt.Errorf("%w (%w)", ErrReadOnly, err)
	case is(bolterrors.ErrTimeout):
		return ErrInUse
	case is(bolterrors.ErrInvalid):
		return fmt.Errorf("%w: neither meta page is one of a ledger", ErrForeign)
	case is(bolterrors.ErrVersionMismatch):
		return fmt.Errorf("%w of the engine", ErrNewer)
	case is(bolterrors.ErrChecksum):
		return fmt.Errorf("%w: both meta pages", ErrDamaged)
	case strings.Contains(err.Error(), "file size too small"):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return fmt.Errorf("%w: %w", ErrStorage, err)
}

// harmless reports whether a failed commit certainly left no trace: there was no space for its pages, which are
// written before the sync.
func harmless(err error) bool {
	var path *fs.PathError
	return errors.Is(err, ErrFull) && (errors.As(err, &path) || strings.Contains(err.Error(), "resize error"))
}
