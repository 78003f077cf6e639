package state

import (
	"strings"
	"testing"
	"time"

	"lewes/crypto/kem"
)

// A client that has the gateway's KEM key sends Handshake 1 before anything has
// come: that is no answer.
func TestSilenceIsNoAnswer(t *testing.T) {
	keys := gatewayConfig(t, 1).KEMs
	for name, known := range map[string][]byte{
		"with KKT": nil,
		"with key": keys.Find(kem.MLKEM768, 0).Public(),
	} {
		config := clientConfig(2)
		config.KnownKEM = known
		c := newClientEnd(t, epoch, config)
		c.tick(epoch.Add(DefaultDeadline + time.Second))
		err := c.client.Err()
		if err == nil || !strings.Contains(err.Error(), "the gateway is down, UDP is blocked") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
