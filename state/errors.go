package state

import "errors"

// Reasons for which a packet is dropped or a session refuses. None of them ends
// the session.
var (
	ErrMAC1              = errors.New("state: clear packet with a wrong MAC1")
	ErrWrongLevel        = errors.New("state: packet of another protection level")
	ErrUnexpectedMessage = errors.New("state: message is not allowed at this level or in this direction")
	ErrStale             = errors.New("state: message belongs to another generation or attempt")
	ErrClosed            = errors.New("state: session is closed")
	ErrExhausted         = errors.New("state: the keys have sealed as many packets as they may")
	ErrDuplicate         = errors.New("state: message was answered before")
	ErrWrongSource       = errors.New("state: packet does not come from the source that its record names")
	ErrSaltMismatch      = errors.New("state: ephemeral key is not the one that the salt names")
	ErrRateLimited       = errors.New("state: too many tries in this second")
	ErrAmplification     = errors.New("state: answer would be larger than what came")
	ErrNotListed         = errors.New("state: client identity is not listed")
	ErrClockSkew         = errors.New("state: time stamp is outside the tolerance")
	ErrStaticMismatch    = errors.New("state: static key is not the one of the credential")
)

// Reasons in a Closed event.
var (
	ErrPeerClosed  = errors.New("state: the other end closed the session")
	ErrIdleTimeout = errors.New("state: session was idle for too long")
	ErrPacketLimit = errors.New("state: session reached the packet limit of its keys")
	ErrUnconfirmed = errors.New("state: the gateway did not confirm the handshake")
)
