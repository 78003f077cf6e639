package tickets

import "testing"

// BenchmarkTicket measures the steps of a ticket: those of the client, of the issuer and of the gateway.
func BenchmarkTicket(b *testing.B) {
	key := rfcKey(b)
	gateway := testIdentity(1).Public()
	challenge, seed := Challenge("issuer.example", gateway), [SeedSize]byte{1}
	request, err := Blind(&seed, key.Public(), challenge)
	if err != nil {
		b.Fatal(err)
	}
	response, err := key.Sign(request)
	if err != nil {
		b.Fatal(err)
	}
	token, err := Finalize(&seed, key.Public(), challenge, response)
	if err != nil {
		b.Fatal(err)
	}
	for name, step := range map[string]func() error{
		"blind":    func() error { _, err := Blind(&seed, key.Public(), challenge); return err },
		"sign":     func() error { _, err := key.Sign(request); return err },
		"finalize": func() error { _, err := Finalize(&seed, key.Public(), challenge, response); return err },
		"verify":   func() error { return token.Verify(key.Public()) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := step(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
