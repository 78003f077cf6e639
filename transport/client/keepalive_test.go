package client

import (
	"testing"
	"time"
)

// silences lets a session be silent again and again behind a NAT that forgets after a
// time, and returns how many silences were too long.
func silences(k *keepalive, now *time.Time, nat time.Duration, n int) (lost int) {
	for range n {
		*now = now.Add(k.longest)
		silence := k.longest
		k.pinged(*now, silence, time.Second)
		if silence > nat {
			lost++
			k.asked(now.Add(100 * time.Millisecond))
		}
		k.heard = true
		k.tick(now.Add(time.Second))
	}
	return lost
}

func TestKeepaliveFindsTheTimeOfANAT(t *testing.T) {
	for _, nat := range []time.Duration{6, 12, 20, 24, 30, 300} {
		nat *= time.Second
		k, now := newKeepalive(25*time.Second), at0
		silences(&k, &now, nat, 12)
		if k.longest > nat || k.longest < shortestKeepalive || k.longest > 25*time.Second {
			t.Errorf("NAT of %s: %s", nat, k.longest)
		}
		if nat >= 25*time.Second && k.longest != 25*time.Second {
			t.Errorf("NAT of %s: %s, with no need", nat, k.longest)
		}
		if nat == 24*time.Second && k.longest < 16*time.Second {
			t.Errorf("NAT of %s: %s, less than needed", nat, k.longest)
		}
		// It tries longer ones with care: in a day it is wrong twice an hour at most.
		began := now
		lost := 0
		for now.Sub(began) < 24*time.Hour {
			lost += silences(&k, &now, nat, 1)
			if k.longest > 25*time.Second || k.longest < shortestKeepalive {
				t.Fatalf("NAT of %s: %s", nat, k.longest)
			}
		}
		if lost > 48 {
			t.Errorf("NAT of %s: wrong %d times in a day", nat, lost)
		}
	}
}

// In another network it grows again.
func TestKeepaliveGrowsAgain(t *testing.T) {
	k, now := newKeepalive(25*time.Second), at0
	silences(&k, &now, 8*time.Second, 12)
	short := k.longest
	silences(&k, &now, time.Hour, 400)
	if short > 8*time.Second || k.longest != 25*time.Second {
		t.Errorf("%s, later %s", short, k.longest)
	}
}

// What is no sign of a NAT changes nothing.
func TestKeepaliveIgnores(t *testing.T) {
	k, now := newKeepalive(25*time.Second), at0
	k.asked(now) // no silence before it
	k.pinged(now, 25*time.Second, time.Second)
	k.asked(now.Add(2 * time.Second)) // long after
	k.tick(now.Add(2 * time.Second))
	k.heard = true
	k.reopened(now) // the old port was heard
	for range 100 { // silences that nothing ended are no good ones
		k.pinged(now, 25*time.Second, time.Second)
		k.tick(now.Add(time.Second))
	}
	if k.longest != 25*time.Second || k.good != 0 {
		t.Errorf("%+v", k)
	}
	k.pinged(now, 25*time.Second, time.Second)
	k.reopened(now) // it was not, and another port was
	if k.longest >= 25*time.Second {
		t.Errorf("%+v", k)
	}
	off := newKeepalive(0)
	off.pinged(now, 25*time.Second, time.Second)
	off.asked(now)
	if off.longest > 0 {
		t.Errorf("%+v", off)
	}
}
