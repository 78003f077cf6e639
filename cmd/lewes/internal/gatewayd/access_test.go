package gatewayd

import (
	"testing"

	"go.uber.org/zap"

	"lewes/router/access"
)

// openAccess admits every client.
func openAccess() *accessControl {
	a := &accessControl{log: zap.NewNop()}
	a.rule.Store(&accessRule{open: true})
	return a
}

// listedAccess admits the clients of a list.
func listedAccess(list *access.List) *accessControl {
	a := &accessControl{log: zap.NewNop()}
	a.rule.Store(&accessRule{list: list})
	return a
}

func TestShellQuote(t *testing.T) {
	for text, want := range map[string]string{
		"/var/lib/lewes/clients": "/var/lib/lewes/clients",
		"a b":                    "'a b'",
		"anna's":                 `'anna'\''s'`,
		"":                       "''",
		"$HOME":                  "'$HOME'",
		"~/x":                    "'~/x'",
	} {
		if got := shellQuote(text); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", text, got, want)
		}
	}
}
