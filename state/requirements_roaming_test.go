package state

import (
	"testing"

	"lewes/state/wire"
)

// TestLatePongFromElsewhere delivers the Pong of a new address late, and from a
// third one: it is not the newest packet, so it moves nothing, and it validates
// nothing either.
//
// Shows R6.7, R6.10.
func TestLatePongFromElsewhere(t *testing.T) {
	c, g := established(t)
	s := g.only()
	sendData(t, c.session, &c.out, "moving")
	pass(epoch, c, g, moved)
	if err := c.session.Send(wire.TypePong, &wire.Pong{Data: s.migration.validation.tokens[challengeNew]}, &c.out); err != nil {
		t.Fatal(err)
	}
	late := c.take()[0].Data
	sendData(t, c.session, &c.out, "newer")
	pass(epoch, c, g, moved)
	g.handle(epoch, late, stranger)
	if at := s.migration.active.state.Load(); at.validated || at.path != moved {
		t.Errorf("the session is at %v, validated %v", at.path, at.validated)
	}
	for range 3 { // the next Pong comes from the right place
		sentTo(epoch, c, g, moved)
		pass(epoch, c, g, moved)
	}
	if at := s.migration.active.state.Load(); !at.validated || at.path != moved {
		t.Errorf("in the end the session is at %v, validated %v", at.path, at.validated)
	}
}
