package state

import "errors"

// Reasons for which a packet is dropped or a session refuses. None of them ends
// the session.
var (
	ErrMAC1       = errors.New("state: clear packet with a wrong MAC1")
	ErrLevel      = errors.New("state: packet of another protection level")
	ErrMisplaced  = errors.New("state: message is not allowed at this level or in this direction")
	ErrStale      = errors.New("state: message belongs to another generation or attempt")
	ErrClosed     = errors.New("state: session is closed")
	ErrExhausted  = errors.New("state: the keys have sealed as many packets as they may")
	ErrRepeated   = errors.New("state: message was answered before")
	ErrSource     = errors.New("state: packet does not come from the source that its record names")
	ErrSalt       = errors.New("state: ephemeral key is not the one that the salt names")
	ErrRate       = errors.New("state: too many tries in this second")
	ErrAmplify    = errors.New("state: answer would be larger than what came")
	ErrNotListed  = errors.New("state: client identity is not listed")
	ErrClock      = errors.New("state: time stamp is outside the tolerance")
	ErrCredential = errors.New("state: static key is not the one of the credential")
)

// Reasons in a Closed event.
var (
	ErrPeerClosed = errors.New("state: the other end closed the session")
	ErrIdle       = errors.New("state: session was idle for too long")
	ErrBound      = errors.New("state: session reached the packet limit of its keys")
	ErrNoAnswer   = errors.New("state: the gateway did not confirm the handshake")
)
