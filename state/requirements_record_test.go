package state

import (
	"fmt"
	"testing"
	"time"

	"lewes/crypto/psq"
)

// How often Handshake 1 is tried, and what is left of a handshake (section 5).

// TestTriesOfAnySecond spreads messages that open so that a second which begins
// anew at some moment would let more of them through.
//
// Shows R5.18.
func TestTriesOfAnySecond(t *testing.T) {
	_, g, i := atFirst(t, gatewayConfig(t, 1))
	processed := []time.Duration{}
	for at := time.Duration(0); at < 10*time.Second; at += 90 * time.Millisecond {
		if at > 200*time.Millisecond && at < 900*time.Millisecond {
			continue // the first second's tries come at its end
		}
		_, m := firstWith(t, i, i.config.Session.Static, fmt.Appendf(nil, "opens, and is no PSQ message: %v", at))
		refused := g.drops[ErrRateLimited.Error()]
		g.sendFirst(epoch.Add(at), i.index, m, clientAt)
		if g.drops[ErrRateLimited.Error()] == refused {
			processed = append(processed, at)
		}
	}
	for n := range processed[triesPerSecond:] {
		if gap := processed[n+triesPerSecond] - processed[n]; gap < time.Second {
			t.Errorf("five messages were processed within %v: at %v", gap, processed[n:n+triesPerSecond+1])
		}
	}
	if n := len(processed); n < 36 || n > 40 {
		t.Errorf("%d messages were processed in ten seconds, want about four a second", n)
	}
}

// TestHandshakeSecretsAreOverwritten holds on to everything that a handshake made
// at either end and looks at it once the session stands, and when the record goes.
//
// Shows R5.13.
func TestHandshakeSecretsAreOverwritten(t *testing.T) {
	c, g, i := atFirst(t, gatewayConfig(t, 1))
	record := g.responders.responders[i.index]
	second := g.sendFirst(epoch, i.index, i.handshake1, clientAt)
	clientPSQ, gatewayPSQ := i.psq, record.psq
	if *clientPSQ == (psq.Secrets{}) || *clientPSQ != *gatewayPSQ || record.psk == [32]byte{} || i.ecdh == [32]byte{} {
		t.Fatal("the two ends do not have the same secrets before the session")
	}
	clientNoise := i.noise
	gatewayNoise := record.noise

	c.handle(epoch, second[0].Data, gatewayAt)
	if c.session == nil {
		t.Fatal("the client has no session")
	}
	if *clientPSQ != (psq.Secrets{}) || i.ecdh != [32]byte{} || i.ephemeral.Private != [32]byte{} {
		t.Error("the client holds its transport keys, and k_pq, psq_psk, ecdh or e is left")
	}
	if _, _, err := clientNoise.WriteMessage3(&[32]byte{}); err == nil {
		t.Error("the client's Noise state is left")
	}
	converse(epoch, c, g)
	if g.sessions.Len() != 1 {
		t.Fatal("the gateway has no session")
	}
	if *gatewayPSQ != (psq.Secrets{}) || record.psk != [32]byte{} {
		t.Error("the gateway holds its transport keys, and k_pq, psq_psk or psk is left")
	}
	if _, _, err := gatewayNoise.ReadMessage3(&[32]byte{}, make([]byte, 64)); err == nil {
		t.Error("the gateway's Noise state is left")
	}
	g.tick(epoch.Add(responderLinger))
	if g.responders.Len() != 0 {
		t.Fatal("the record is still there")
	}
	if _, ok := fingerprintOf(record.receive); ok {
		t.Error("the record has gone, and hk_c2g is left")
	}
	checkExchange(t, epoch.Add(responderLinger), c, g)

	// A record that comes to nothing is wiped as well, and so is an attempt.
	c, g, i = atFirst(t, gatewayConfig(t, 1))
	record = g.responders.responders[i.index]
	g.sendFirst(epoch, i.index, i.handshake1, clientAt)
	clientPSQ, gatewayPSQ = i.psq, record.psq
	g.tick(epoch.Add(90 * time.Second))
	c.take()
	c.wait(epoch)
	if *clientPSQ != (psq.Secrets{}) || *gatewayPSQ != (psq.Secrets{}) || record.psk != [32]byte{} || i.ephemeral.Private != [32]byte{} {
		t.Error("a handshake came to nothing, and its secrets are left")
	}
	if _, ok := fingerprintOf(record.receive); ok {
		t.Error("a handshake came to nothing, and hk_c2g is left")
	}
}
