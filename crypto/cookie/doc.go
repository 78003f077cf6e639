// Package cookie holds the two checks that a gateway makes before it spends
// anything on a stranger.
//
// MAC1 is the trailer of every packet in clear (section 1 of PROTOCOL.md). Its
// key is public: it keeps scanners and damaged packets out for the price of one
// hash, and proves nothing.
//
//	mac1 := cookie.NewMAC1Key(gateway)
//	mac1.Sum(packet)
//	if !mac1.Verify(packet) { return }
//
// A cookie shows that whoever sends from an address also receives there
// (section 4). The gateway keeps nothing for it but two secrets.
//
//	jar := cookie.NewJar(rand.Reader)
//	c, err := jar.Make(now, source, idx, &salt)
//	if jar.Valid(now, source, idx, &salt, c[:]) { ... }
package cookie
