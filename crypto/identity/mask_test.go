package identity_test

import (
	"errors"
	"strings"
	"testing"

	"lewes/crypto/identity"
)

func TestMask(t *testing.T) {
	public := identity.FromSeed(&[32]byte{7}).Public().String()
	const body = "MC4CAQAwBQYDK2VwBCIEIJcgmVOWPwBk/epoPsic+pY8rRR0g5ol3zzvH+byOGzs"
	for in, want := range map[string]string{
		"":                          "",
		"anna-phone sessions=2":     "anna-phone sessions=2",
		public + " anna":            public + " anna",
		"lewes://" + public + "@gw": "lewes://" + public + "@gw",
		body + " anna":              "… anna",
		"lewes://" + body + "@gw":   "lewes://…@gw",
		strings.Repeat("0f", 32):    "…",
		"-----BEGIN PRIVATE KEY-----\n" + body + "\n-----END PRIVATE KEY-----\nx": "…\nx",
		"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE":                "…",
	} {
		if got := identity.Mask(in); got != want {
			t.Errorf("%q is masked as %q, want %q", in, got, want)
		}
	}
	if got := identity.Redact("cannot open " + body + ": " + public); got != "cannot open …: "+public {
		t.Errorf("redacted: %q", got)
	}
	if _, err := identity.ParsePublicKey(body); !errors.Is(err, identity.ErrPrivateKey) {
		t.Errorf("a private key: %v", err)
	}
}
