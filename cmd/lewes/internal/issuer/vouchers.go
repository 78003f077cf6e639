package issuer

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"lewes/crypto/tickets"
)

// MaxCount bounds the tickets of one voucher, and with that the size of its file.
const MaxCount = 1000

const (
	voucherHead = "lewes voucher 1"
	entrySize   = 2*sha256.Size + 1 // a line with the hash of a request

	maxVoucherFile = 128 + MaxCount*entrySize
)

var (
	errNoVoucher = errors.New("unknown voucher")
	errUsedUp    = errors.New("voucher used up")
	errDamaged   = errors.New("damaged voucher file")
)

// NewVoucher makes a voucher for count tickets of a plan in the state directory of an issuer, which may
// be running.
func NewVoucher(dir string, p Plan, count int) (tickets.Voucher, error) {
	if count < 1 || count > MaxCount {
		return tickets.Voucher{}, fmt.Errorf("%d tickets are not 1 to %d", count, MaxCount)
	}
	v, err := tickets.NewVoucher(rand.Reader)
	if err != nil {
		return v, err
	}
	s := vouchers{dir: filepath.Join(dir, "vouchers")}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return v, fmt.Errorf("directory of the vouchers: %w", err)
	}
	head := fmt.Sprintf("%s %d %d %d\n", voucherHead, count, p.Bytes, p.Seconds)
	// Under its name only once it is complete: the issuer may look at any time.
	if err := replaceFile(s.path(v), []byte(head)); err != nil {
		return v, fmt.Errorf("voucher: %w", err)
	}
	return v, nil
}

// vouchers are the voucher files of a directory.
type vouchers struct {
	dir   string
	locks [64]sync.Mutex // by the first byte of a voucher's hash
}

// balance is what a voucher is for and how much of it is left.
type balance struct {
	tickets.Denomination
	left int
}

func (s *vouchers) path(v tickets.Voucher) string {
	hash := v.Hash()
	return filepath.Join(s.dir, hex.EncodeToString(hash[:]))
}

func (s *vouchers) lock(v tickets.Voucher) (unlock func()) {
	l := &s.locks[int(v.Hash()[0])%len(s.locks)]
	l.Lock()
	return l.Unlock
}

// balance returns what is left of a voucher. Errors are errNoVoucher, errDamaged, and those of the file.
func (s *vouchers) balance(v tickets.Voucher) (balance, error) {
	defer s.lock(v)()
	f, b, _, err := s.open(v, os.O_RDONLY)
	if err != nil {
		return balance{}, err
	}
	return b, f.Close()
}

// spend charges a voucher for a request, durably, unless it has paid for it before, and returns what is
// left. It first calls accept, which can refuse. Errors are those of balance and accept, and errUsedUp.
func (s *vouchers) spend(v tickets.Voucher, request tickets.Request, accept func(balance) error) (balance, error) {
	defer s.lock(v)()
	f, b, entries, err := s.open(v, os.O_RDWR)
	if err != nil {
		return b, err
	}
	defer f.Close()

	hash := sha256.Sum256(request.Append(nil))
	entry := append(hex.AppendEncode(nil, hash[:]), '\n')
	for known := range bytes.Lines(entries) {
		if bytes.Equal(known, entry) {
			return b, nil
		}
	}
	if b.left == 0 {
		return b, errUsedUp
	}
	if err := accept(b); err != nil {
		return b, err
	}
	if _, err := f.Write(entry); err != nil {
		return b, fmt.Errorf("voucher file: %w", err)
	}
	if err := f.Sync(); err != nil {
		return b, fmt.Errorf("voucher file: %w", err)
	}
	b.left--
	return b, nil
}

// open opens the file of a voucher and reads it. The file's position is behind the last complete entry:
// one that was written in part was never answered, and is overwritten.
func (s *vouchers) open(v tickets.Voucher, flag int) (f *os.File, b balance, entries []byte, err error) {
	f, err = os.OpenFile(s.path(v), flag, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, b, nil, errNoVoucher
	}
	if err != nil {
		return nil, b, nil, fmt.Errorf("voucher file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	text, err := io.ReadAll(io.LimitReader(f, maxVoucherFile+1))
	if err != nil {
		return nil, b, nil, fmt.Errorf("voucher file: %w", err)
	}
	head, all, _ := bytes.Cut(text, []byte("\n"))
	var count int
	if n, err := fmt.Sscanf(string(head), voucherHead+" %d %d %d", &count, &b.Bytes, &b.Seconds); n != 3 || err != nil || len(text) > maxVoucherFile {
		return nil, b, nil, errDamaged
	}
	entries = all[:len(all)/entrySize*entrySize]
	for i := entrySize - 1; i < len(entries); i += entrySize {
		if entries[i] != '\n' {
			return nil, b, nil, errDamaged
		}
	}
	if b.left = count - len(entries)/entrySize; b.left < 0 {
		return nil, b, nil, errDamaged
	}
	_, err = f.Seek(int64(len(head)+1+len(entries)), io.SeekStart)
	return f, b, entries, err
}
