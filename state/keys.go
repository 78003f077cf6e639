package state

import (
	"encoding/binary"

	"lewes/crypto/kdf"
	"lewes/crypto/noise"
)

// Context strings of the key schedule (sections 5 and 7).
const (
	contextPSK            = "lewes/2 psk"
	contextHandshakeC2G   = "lewes/2 handshake c2g"
	contextHandshakeG2C   = "lewes/2 handshake g2c"
	contextRoot           = "lewes/2 root"
	contextTransportC2G   = "lewes/2 transport c2g"
	contextTransportG2C   = "lewes/2 transport g2c"
	contextBinding        = "lewes/2 binding"
	contextExporter       = "lewes/2 exporter"
	contextSubsessionSeed = "lewes/2 subsession seed"
	contextSubsessionPSK  = "lewes/2 subsession psk"

	transcriptLabel      = "lewes/2 transcript"
	handshakePrologue    = "lewes/2"
	subsessionPrologue   = "lewes/2 subsession"
	saltCommitmentLength = 24
)

// transportKeys are derived from the root of one generation.
type transportKeys struct {
	c2g, g2c [32]byte // transport keys, by direction
	binding  [32]byte
}

func deriveTransportKeys(root *[32]byte) transportKeys {
	return transportKeys{
		c2g:     kdf.DeriveKey(contextTransportC2G, root[:]),
		g2c:     kdf.DeriveKey(contextTransportG2C, root[:]),
		binding: kdf.DeriveKey(contextBinding, root[:]),
	}
}

func (k *transportKeys) wipe() { *k = transportKeys{} }

// firstSecrets are derived from the root of the handshake.
type firstSecrets struct {
	keys     transportKeys
	exporter [32]byte
	seed     [32]byte // of the first subsession
}

// deriveFirst derives the first secrets and wipes psk and split.
func deriveFirst(split *noise.Split, psk, kpq *[32]byte) firstSecrets {
	root := kdf.DeriveKey(contextRoot, split.InitiatorToResponder[:], split.ResponderToInitiator[:], psk[:], split.Hash[:])
	defer clear(root[:])
	defer clear(psk[:])
	defer split.Wipe()
	return firstSecrets{
		keys:     deriveTransportKeys(&root),
		exporter: kdf.DeriveKey(contextExporter, root[:]),
		seed:     kdf.DeriveKey(contextSubsessionSeed, kpq[:], root[:]),
	}
}

// rekeySecrets are the results of a KK exchange. They don't depend on the child's index,
// because the gateway may have to propose another.
type rekeySecrets struct {
	split noise.Split
	psk   [32]byte
	ss    [32]byte // of the ML-KEM-768 exchange inside
}

func (s *rekeySecrets) child(index uint32) transportKeys {
	root := kdf.DeriveKey(contextRoot, s.split.InitiatorToResponder[:], s.split.ResponderToInitiator[:], s.psk[:], s.split.Hash[:], s.ss[:], bytesOf(index))
	defer clear(root[:])
	return deriveTransportKeys(&root)
}

func (s *rekeySecrets) nextSeed(seed *[32]byte) [32]byte {
	return kdf.DeriveKey(contextSubsessionSeed, seed[:], s.split.InitiatorToResponder[:], s.split.ResponderToInitiator[:], s.ss[:])
}

func (s *rekeySecrets) wipe() { *s = rekeySecrets{} }

func subsessionPSK(seed *[32]byte, generation uint32) [32]byte {
	return kdf.DeriveKey(contextSubsessionPSK, seed[:], bytesOf(generation))
}

func subsessionPrologueFor(generation uint32, binding *[32]byte) []byte {
	p := append([]byte(nil), subsessionPrologue...)
	p = binary.LittleEndian.AppendUint32(p, generation)
	return append(p, binding[:]...)
}

// transcript returns T of section 5. The KKT frames are empty if KKT was skipped.
func transcript(gateway, hello, request, response []byte) [32]byte {
	return kdf.Hash([]byte(transcriptLabel), gateway, hello, bytesOf(uint32(len(request))), request, bytesOf(uint32(len(response))), response)
}

func bytesOf(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

func noisePrologue(t *[32]byte) []byte {
	return append([]byte(handshakePrologue), t[:]...)
}

// handshakePSK returns psk of section 5; ack is the content of the hello's Ack.
func handshakePSK(ecdh, psqPSK, salt, t *[32]byte, ack []byte) [32]byte {
	return kdf.DeriveKey(contextPSK, ecdh[:], psqPSK[:], salt[:], t[:], ack)
}

func handshakeKeys(psk *[32]byte) (c2g, g2c [32]byte) {
	return kdf.DeriveKey(contextHandshakeC2G, psk[:]), kdf.DeriveKey(contextHandshakeG2C, psk[:])
}
