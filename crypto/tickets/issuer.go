package tickets

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"lewes/crypto/identity"
)

// ErrIssuer means that a text does not name an issuer.
var ErrIssuer = errors.New("not an issuer: write https://HOST#PIN as the issuer prints it")

// Issuer is what a client or a gateway knows of an issuer: where it is, and the key that signs its
// list of keys.
type Issuer struct {
	URL *url.URL // https, or http to a loopback address; without path, query and fragment
	Pin identity.PublicKey
}

// ParseIssuer parses URL#PIN, as an issuer prints it. The error is ErrIssuer or that of the pin.
func ParseIssuer(s string) (Issuer, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Opaque != "" || strings.Trim(u.Path, "/") != "" {
		return Issuer{}, fmt.Errorf("tickets: %q is %w", identity.Mask(s), ErrIssuer)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return Issuer{}, fmt.Errorf("tickets: %q: only loopback addresses may use http: %w", identity.Mask(s), ErrIssuer)
	}
	if u.Fragment == "" {
		return Issuer{}, fmt.Errorf("tickets: %q has no #PIN, the key that signs its list of keys: %w", s, ErrIssuer)
	}
	pin, err := identity.ParsePublicKey(u.Fragment)
	if err != nil {
		return Issuer{}, fmt.Errorf("tickets: pin of the issuer: %w", err)
	}
	i := Issuer{&url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}, pin}
	if !validHost(i.Name()) {
		return Issuer{}, fmt.Errorf("tickets: %q is %w", s, ErrIssuer)
	}
	return i, nil
}

// loopback reports whether a host is an IP address of this machine only. The name localhost is not:
// a resolver decides where it leads.
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// Name returns the issuer_name of challenges: the host, with its port unless that is the scheme's.
func (i Issuer) Name() string {
	port := map[string]string{"https": ":443", "http": ":80"}[i.URL.Scheme]
	return strings.TrimSuffix(i.URL.Host, port)
}

// DirectoryURL returns where the issuer publishes its directory.
func (i Issuer) DirectoryURL() string { return i.URL.JoinPath(DirectoryPath).String() }

// RequestURL resolves a directory's RequestURI. One that leads to another host is ErrIssuer: a voucher
// goes to the issuer alone.
func (i Issuer) RequestURL(d *Directory) (string, error) {
	u, err := i.URL.Parse(d.RequestURI)
	if err != nil || u.Scheme != i.URL.Scheme || !strings.EqualFold(u.Host, i.URL.Host) || u.User != nil {
		return "", fmt.Errorf("tickets: token requests of %s to another host: %w", i.Name(), ErrIssuer)
	}
	return u.String(), nil
}

// String returns URL#PIN.
func (i Issuer) String() string { return i.URL.String() + "#" + i.Pin.String() }
