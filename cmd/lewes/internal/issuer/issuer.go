package issuer

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/crypto/tickets"
)

// signatures is how many RSA signatures are made at once.
const signatures = 16

// pemType is that of PKCS#8.
const pemType = "PRIVATE KEY"

// Config configures an issuer.
type Config struct {
	Dir   string        // state directory, created if it does not exist
	Name  string        // issuer_name of challenges: its host
	Epoch time.Duration // length of an epoch
	Plans []Plan        // empty: those of the last time
	Log   *zap.Logger
	Now   func() time.Time // nil: time.Now
}

// Issuer signs ticket requests. It is safe for concurrent use.
type Issuer struct {
	config   Config
	pin      *identity.PrivateKey
	vouchers vouchers
	signing  chan struct{} // holds a value for each signature being made
	unlock   func()

	mu      sync.Mutex // guards the fields below
	epoch   uint32     // of the keys
	keys    []liveKey  // current ones first
	text    []byte     // the signed directory
	last    *tickets.Directory
	refresh time.Time // when the keys were checked last
}

// liveKey is a key whose tickets are good, or will be.
type liveKey struct {
	tickets.Key
	private *tickets.PrivateKey
}

// Open opens or creates an issuer's state directory, and makes the keys that are missing. The caller
// calls Close.
func Open(c Config) (*Issuer, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Epoch < tickets.MinEpoch || c.Epoch > tickets.MaxEpoch || c.Epoch%time.Second != 0 {
		return nil, fmt.Errorf("epochs of %v are not %v to %v in whole seconds", c.Epoch, tickets.MinEpoch, tickets.MaxEpoch)
	}
	for _, sub := range []string{"keys", "vouchers"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("state directory of the issuer: %w", err)
		}
	}
	unlock, err := lock(c.Dir)
	if err != nil {
		return nil, err
	}
	i := &Issuer{config: c, signing: make(chan struct{}, signatures), unlock: unlock}
	i.vouchers.dir = filepath.Join(c.Dir, "vouchers")
	if err := i.load(); err != nil {
		i.Close()
		return nil, err
	}
	return i, nil
}

func (i *Issuer) load() (err error) {
	dir := i.config.Dir
	if len(i.config.Plans) == 0 {
		i.config.Plans, err = ReadPlans(dir)
	} else {
		err = writePlans(dir, i.config.Plans)
	}
	if err != nil {
		return err
	}
	if i.pin, _, err = config.LoadOrCreateIdentity(filepath.Join(dir, "pin")); err != nil {
		return fmt.Errorf("pin of the issuer: %w", err)
	}
	if err := i.readDirectory(); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.update(i.config.Now())
}

// Close unlocks the state directory. No method may be called after it.
func (i *Issuer) Close() {
	if i.pin != nil {
		i.pin.Wipe()
	}
	i.unlock()
}

// Pin returns the public key that verifies the list of keys.
func (i *Issuer) Pin() identity.PublicKey { return i.pin.Public() }

// readDirectory reads the directory that was published last, if there is one.
func (i *Issuer) readDirectory() error {
	path := i.directoryFile()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("last directory of the issuer: %w", err)
	}
	d, err := tickets.ParseDirectory(text, i.pin.Public())
	if err != nil {
		return fmt.Errorf("%s: %w\nit shows which keys clients know; restore it and keys/ from a backup, or use a new state directory", path, err)
	}
	if d.Issuer != i.config.Name {
		return fmt.Errorf("the issuer in %s is %s, not %s: tickets are bound to that name\nuse its --url, or a new state directory", i.config.Dir, d.Issuer, i.config.Name)
	}
	if d.Epoch != i.config.Epoch {
		return fmt.Errorf("the issuer in %s has epochs of %v, not %v: tickets are bound to that\nuse its --epoch, or a new state directory", i.config.Dir, d.Epoch, i.config.Epoch)
	}
	i.last = d
	return nil
}

func (i *Issuer) directoryFile() string { return filepath.Join(i.config.Dir, "directory") }

// checkKeys is how often expired keys are looked for within an epoch.
const checkKeys = time.Minute

// current returns the directory and the keys at now.
func (i *Issuer) current(now time.Time) (text []byte, keys []liveKey, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if tickets.EpochAt(now, i.config.Epoch) != i.epoch || now.Sub(i.refresh).Abs() >= checkKeys {
		if err := i.update(now); err != nil {
			return nil, nil, err
		}
	}
	return i.text, i.keys, nil
}

// update reads the keys whose tickets are good at now, makes those of this epoch and the next that are
// missing, and publishes them. mu is held.
func (i *Issuer) update(now time.Time) error {
	epoch := tickets.EpochAt(now, i.config.Epoch)
	keys, err := i.readKeys(epoch, now)
	if err != nil {
		return err
	}
	for _, e := range []uint32{epoch, epoch + 1} {
		for _, p := range i.config.Plans {
			if slices.ContainsFunc(keys, func(k liveKey) bool { return k.Denomination == p.Denomination && k.Epoch == e }) {
				continue
			}
			if i.last != nil && slices.ContainsFunc(i.last.Keys, func(k tickets.Key) bool { return k.Denomination == p.Denomination && k.Epoch == e }) {
				return fmt.Errorf("%s is missing, and clients know it; restore it from a backup, or use a new state directory", i.keyFile(p.Denomination, e))
			}
			k, err := i.makeKey(p.Denomination, e, keys)
			if err != nil {
				return err
			}
			keys = append(keys, k)
		}
	}
	order := func(k liveKey) int { // this epoch, the next, the last; in each the plans in their order
		age := 2
		if k.Epoch >= epoch {
			age = int(k.Epoch - epoch)
		}
		plan := slices.IndexFunc(i.config.Plans, func(p Plan) bool { return p.Denomination == k.Denomination })
		return age<<8 + plan&0xff // -1 is last
	}
	slices.SortStableFunc(keys, func(a, b liveKey) int { return order(a) - order(b) })

	d := &tickets.Directory{Issuer: i.config.Name, Epoch: i.config.Epoch, RequestURI: requestPath}
	for _, k := range keys {
		d.Keys = append(d.Keys, k.Key)
	}
	if i.last != nil {
		if err := d.Extends(i.last); err != nil {
			return fmt.Errorf("%w\na key in %s is not the one that clients know; restore it from a backup, or use a new state directory", err, filepath.Join(i.config.Dir, "keys"))
		}
	}
	text, err := d.Sign(i.pin)
	if err != nil {
		return err
	}
	if !bytes.Equal(text, i.text) {
		if err := replaceFile(i.directoryFile(), text); err != nil {
			return fmt.Errorf("directory of the issuer: %w", err)
		}
		i.config.Log.Info("keys published", zap.Uint32("epoch", epoch), zap.Int("keys", len(keys)))
	}
	i.epoch, i.keys, i.text, i.last, i.refresh = epoch, keys, text, d, now
	return nil
}

func (i *Issuer) keyFile(d tickets.Denomination, epoch uint32) string {
	return filepath.Join(i.config.Dir, "keys", fmt.Sprintf("%d-%d-%d.pem", d.Bytes, d.Seconds, epoch))
}

// readKeys reads the keys of the last epoch, this one and the next. Older ones stay where they are: they
// are of no use to anyone, and a clock that is fast for a while must not cost a key.
func (i *Issuer) readKeys(epoch uint32, now time.Time) (keys []liveKey, err error) {
	dir := filepath.Join(i.config.Dir, "keys")
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("keys of the issuer: %w", err)
	}
	for _, f := range files {
		var k liveKey
		if n, err := fmt.Sscanf(f.Name(), "%d-%d-%d.pem", &k.Bytes, &k.Seconds, &k.Epoch); n != 3 || err != nil || i.keyFile(k.Denomination, k.Epoch) != filepath.Join(dir, f.Name()) {
			continue
		}
		if _, until := tickets.Validity(k.Epoch, i.config.Epoch); !now.Before(until) || k.Epoch > epoch+1 {
			continue
		}
		if at := slices.IndexFunc(i.keys, func(have liveKey) bool { return have.Denomination == k.Denomination && have.Epoch == k.Epoch }); at >= 0 {
			keys = append(keys, i.keys[at])
			continue
		}
		if k.private, err = readKey(filepath.Join(dir, f.Name())); err != nil {
			return nil, err
		}
		k.Public = k.private.Public()
		keys = append(keys, k)
	}
	return keys, nil
}

func readKey(path string) (*tickets.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("key of the issuer: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("key of the issuer: %s: others can read or write it; run: chmod 600 %s", path, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key of the issuer: %w", err)
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("key of the issuer: %s is damaged; restore it from a backup", path)
	}
	defer clear(block.Bytes)
	k, err := tickets.ParsePrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key of the issuer: %s: %w; restore it from a backup", path, err)
	}
	return k, nil
}

// makeKey makes a key with a truncated id that none of the others has, and stores it.
func (i *Issuer) makeKey(d tickets.Denomination, epoch uint32, others []liveKey) (k liveKey, err error) {
	taken := func(id tickets.KeyID) bool {
		return slices.ContainsFunc(others, func(o liveKey) bool { return o.Public.ID().Truncated() == id.Truncated() })
	}
	k = liveKey{Key: tickets.Key{Denomination: d, Epoch: epoch}}
	for k.private == nil || taken(k.Public.ID()) {
		if k.private, err = tickets.GenerateKey(); err != nil {
			return k, err
		}
		k.Public = k.private.Public()
	}
	der, err := k.private.Encoded()
	if err != nil {
		return k, err
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
	defer clear(text)
	if err := createFile(i.keyFile(d, epoch), text); err != nil {
		return k, fmt.Errorf("key of the issuer: %w", err)
	}
	return k, nil
}
