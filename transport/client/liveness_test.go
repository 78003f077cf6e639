package client

import (
	"testing"
	"time"
)

// silences simulates n idle times behind a NAT with a timeout, and returns how many exceeded
// it.
func silences(k *keepalive, now *time.Time, nat time.Duration, n int) (lost int) {
	for range n {
		*now = now.Add(k.interval)
		silence := k.interval
		k.sent(*now, silence, time.Second)
		if silence > nat {
			lost++
			k.challenged(now.Add(100 * time.Millisecond))
		}
		k.answered = true
		k.tick(now.Add(time.Second))
	}
	return lost
}

func TestKeepaliveConvergesToNATTimeout(t *testing.T) {
	for _, nat := range []time.Duration{6, 12, 20, 24, 30, 300} {
		nat *= time.Second
		k, now := newKeepalive(25*time.Second), at0
		silences(&k, &now, nat, 12)
		if k.interval > nat || k.interval < minKeepalive || k.interval > 25*time.Second {
			t.Errorf("NAT of %s: %s", nat, k.interval)
		}
		if nat >= 25*time.Second && k.interval != 25*time.Second {
			t.Errorf("NAT of %s: %s, with no need", nat, k.interval)
		}
		if nat == 24*time.Second && k.interval < 16*time.Second {
			t.Errorf("NAT of %s: %s, less than needed", nat, k.interval)
		}
		// It tries longer ones with care: in a day it is wrong twice an hour at most.
		began := now
		lost := 0
		for now.Sub(began) < 24*time.Hour {
			lost += silences(&k, &now, nat, 1)
			if k.interval > 25*time.Second || k.interval < minKeepalive {
				t.Fatalf("NAT of %s: %s", nat, k.interval)
			}
		}
		if lost > 48 {
			t.Errorf("NAT of %s: wrong %d times in a day", nat, lost)
		}
	}
}

// The interval grows again in a network with a longer timeout.
func TestKeepaliveGrowsAfterNetworkChange(t *testing.T) {
	k, now := newKeepalive(25*time.Second), at0
	silences(&k, &now, 8*time.Second, 12)
	short := k.interval
	silences(&k, &now, time.Hour, 400)
	if short > 8*time.Second || k.interval != 25*time.Second {
		t.Errorf("%s, later %s", short, k.interval)
	}
}

// Pings that no NAT timeout explains have no effect.
func TestKeepaliveIgnoresUnrelatedPings(t *testing.T) {
	k, now := newKeepalive(25*time.Second), at0
	k.challenged(now) // no silence before it
	k.sent(now, 25*time.Second, time.Second)
	k.challenged(now.Add(2 * time.Second)) // long after
	k.tick(now.Add(2 * time.Second))
	k.answered = true
	k.rebound(now)  // the old port had answered
	for range 100 { // silences that nothing ended are no good ones
		k.sent(now, 25*time.Second, time.Second)
		k.tick(now.Add(time.Second))
	}
	if k.interval != 25*time.Second || k.good != 0 {
		t.Errorf("%+v", k)
	}
	k.sent(now, 25*time.Second, time.Second)
	k.rebound(now) // it was not, and another port was
	if k.interval >= 25*time.Second {
		t.Errorf("%+v", k)
	}
	off := newKeepalive(0)
	off.sent(now, 25*time.Second, time.Second)
	off.challenged(now)
	if off.interval > 0 {
		t.Errorf("%+v", off)
	}
}
