package router

import (
	"net/netip"
	"testing"

	"lewes/crypto/identity"
	"lewes/router/unlisted"
)

// TestUnlistedIdentitiesAreRemembered refuses a client at Handshake 1 and another at Handshake 3.
func TestUnlistedIdentitiesAreRemembered(t *testing.T) {
	listed := false
	var news []unlisted.Entry
	r := newRig(t, func(c *Config) {
		c.Access = listing(func(identity.PublicKey) bool { return listed })
		c.OnUnlisted = func(e unlisted.Entry) { news = append(news, e) }
	})
	r.begin(2, clientAt).run()
	r.begin(2, clientAt).run()
	listed = true
	withheld := r.withhold(3, clientAt)
	listed = false
	r.shard.Receive(r.now(), withheld, nil)
	all := r.whole.Unlisted()
	if len(all) != 2 || len(news) != 2 {
		t.Fatalf("%+v, reported %+v", all, news)
	}
	prefix := netip.PrefixFrom(clientAt.Peer.Addr(), 24).Masked()
	if e := all[0]; e.Identity != testIdentity(3).Public() || e.Source != prefix || e.Count != 1 {
		t.Errorf("%+v", e)
	}
	if e := all[1]; e.Identity != testIdentity(2).Public() || news[0].Identity != e.Identity {
		t.Errorf("%+v, reported %+v", e, news[0])
	}
}
