package tickets

import (
	"errors"
	"testing"
)

func TestParseIssuer(t *testing.T) {
	pin := "#" + testIdentity(9).Public().String()
	for _, c := range []struct{ text, name, again string }{
		{"https://issuer.example" + pin, "issuer.example", "https://issuer.example" + pin},
		{"https://Issuer.Example:443/" + pin, "issuer.example", "https://issuer.example:443" + pin},
		{"https://issuer.example:8443" + pin, "issuer.example:8443", "https://issuer.example:8443" + pin},
		{"http://127.0.0.1:8080" + pin, "127.0.0.1:8080", "http://127.0.0.1:8080" + pin},
		{"http://[::1]" + pin, "[::1]", "http://[::1]" + pin},
	} {
		i, err := ParseIssuer(c.text)
		if err != nil || i.Name() != c.name || i.String() != c.again {
			t.Errorf("%s: %v %s, %v", c.text, i, i.Name(), err)
		}
	}
	for _, s := range []string{
		"", "issuer.example", "https://issuer.example", "https://" + pin, "http://issuer.example" + pin, "http://localhost" + pin,
		"https://a@issuer.example" + pin, "https://issuer.example/path" + pin, "https://issuer.example?q" + pin, "ftp://issuer.example" + pin, "https://a b" + pin,
	} {
		if _, err := ParseIssuer(s); !errors.Is(err, ErrIssuer) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := ParseIssuer("https://issuer.example#pin"); err == nil {
		t.Error("a short pin was accepted")
	}
}

func TestRequestURL(t *testing.T) {
	i, err := ParseIssuer("https://issuer.example:8443#" + testIdentity(9).Public().String())
	if err != nil {
		t.Fatal(err)
	}
	for uri, want := range map[string]string{
		"/token-request":                        "https://issuer.example:8443/token-request",
		"request?x":                             "https://issuer.example:8443/request?x",
		"https://issuer.example:8443/a":         "https://issuer.example:8443/a",
		"https://other.example/token-request":   "",
		"//other.example/token-request":         "",
		"http://issuer.example:8443/":           "",
		"https://voucher@issuer.example:8443/a": "",
		"%":                                     "",
	} {
		if got, err := i.RequestURL(&Directory{RequestURI: uri}); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s, %v", uri, got, err)
		}
	}
}
