package issuer

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificate is a TLS certificate that is read again when its file changes.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex // guards the fields below
	current *tls.Certificate
	changed time.Time // of certFile
	checked time.Time
}

// TLS returns a configuration with the certificate in two PEM files. A renewed certificate is used
// within a minute; one that cannot be read leaves the last one in use.
func TLS(certFile, keyFile string) (*tls.Config, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	if err := c.load(time.Now()); err != nil {
		return nil, fmt.Errorf("certificate of the issuer: %w", err)
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(time.Now()), nil },
	}, nil
}

func (c *certificate) get(now time.Time) *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.checked).Abs() >= time.Minute {
		_ = c.load(now)
	}
	return c.current
}

func (c *certificate) load(now time.Time) error {
	c.checked = now
	info, err := os.Stat(c.certFile)
	if err != nil {
		return err
	}
	if c.current != nil && info.ModTime().Equal(c.changed) {
		return nil
	}
	read, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.current, c.changed = &read, info.ModTime()
	return nil
}
