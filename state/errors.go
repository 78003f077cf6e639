package state

import (
	"errors"

	"lewes/crypto/identity"
)

// Reasons for which a packet is dropped or an operation fails. None of them ends the session.
var (
	ErrMAC1              = errors.New("state: invalid MAC1")
	ErrWrongLevel        = errors.New("state: wrong protection level")
	ErrUnexpectedMessage = errors.New("state: message not allowed at this level or in this direction")
	ErrStale             = errors.New("state: message belongs to another key set or attempt")
	ErrClosed            = errors.New("state: session closed")
	ErrExhausted         = errors.New("state: key has reached its packet limit")
	ErrDuplicate         = errors.New("state: handshake already answered")
	ErrWrongSource       = errors.New("state: packet from another source than the hello")
	ErrSaltMismatch      = errors.New("state: ephemeral key does not match the salt")
	ErrRateLimited       = errors.New("state: too many tries per second")
	ErrAmplification     = errors.New("state: answer exceeds the bytes received")
	ErrNotListed         = errors.New("state: client identity not listed")
	ErrClockSkew         = errors.New("state: timestamp outside the tolerance")
	ErrStaticMismatch    = errors.New("state: static key does not match the credential")
	errEarlyFull         = errors.New("state: too many packets before Handshake 3")
)

// NotListedError is an ErrNotListed with the identity, which the client has proved.
type NotListedError struct{ Client identity.PublicKey }

func (e *NotListedError) Error() string { return ErrNotListed.Error() + ": " + e.Client.String() }

// Unwrap returns ErrNotListed.
func (e *NotListedError) Unwrap() error { return ErrNotListed }

// Reasons of a Closed event.
var (
	ErrHeld        = errors.New("state: the gateway still holds the session in doubt")
	ErrPeerClosed  = errors.New("state: peer closed the session")
	ErrIdleTimeout = errors.New("state: session idle for too long")
	ErrPacketLimit = errors.New("state: session keys have reached their packet limit")
	ErrUnconfirmed = errors.New("state: gateway did not confirm the handshake")
)
