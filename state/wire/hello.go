package wire

import "encoding/binary"

// Sizes in bytes, section 4.
const (
	SaltSize   = 32
	CookieSize = 16
	// HelloSize is the size of "hello", the fields of a ClientHello up to doubted,
	// which the transcript and the KKT session id cover.
	HelloSize = 46
	// AckNonceSize is the size of the nonce in an Ack.
	AckNonceSize = 16
	// AckSize is the size of an Ack's content.
	AckSize = 4 + AckNonceSize + 4
	// KKTRequestSize is the size of the KKT frame in a KKTRequest.
	KKTRequestSize = 23
)

// ClientHello opens a handshake, section 4. Over UDP it is padded (Pad) to MinHelloDatagram.
//
//	attempt u32 · salt 32 · aead_offer u8 · kem u8 · kem_key_id u32 · doubted u32 ·
//	cookie_len u8 (0 or 16) · cookie · zero padding
type ClientHello struct {
	Attempt   uint32 // random, never 0; the index of the handshake's packets up to Handshake 2
	Salt      [SaltSize]byte
	AEADOffer uint8  // bit 0 ChaCha20-Poly1305, bit 1 AES-256-GCM
	KEM       uint8  // the KEM's id in KKT
	KEMKeyID  uint32 // 0: the client runs KKT
	Doubted   uint32 // receiver index of the session that the client asks about (section 11); 0: none
	HasCookie bool
	Cookie    [CookieSize]byte // if HasCookie
}

// NewSalt returns a hello's salt: the client's clock in Unix seconds, and the first
// 24 bytes of the BLAKE3 hash of the ephemeral public key in Handshake 1.
func NewSalt(seconds uint64, ephemeralHash *[32]byte) (salt [SaltSize]byte) {
	binary.LittleEndian.PutUint64(salt[:], seconds)
	copy(salt[8:], ephemeralHash[:])
	return salt
}

// Seconds returns the client's clock in Unix seconds, from the salt.
func (m *ClientHello) Seconds() uint64 { return binary.LittleEndian.Uint64(m.Salt[:]) }

// Hello returns the first 46 bytes of the content, "hello" in section 4.
func (m *ClientHello) Hello() [HelloSize]byte {
	var h [HelloSize]byte
	m.appendHello(h[:0])
	return h
}

func (m *ClientHello) appendHello(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.Attempt)
	dst = append(dst, m.Salt[:]...)
	dst = append(dst, m.AEADOffer, m.KEM)
	dst = binary.LittleEndian.AppendUint32(dst, m.KEMKeyID)
	return binary.LittleEndian.AppendUint32(dst, m.Doubted)
}

// Append appends the content, without padding, to dst.
func (m *ClientHello) Append(dst []byte) []byte {
	return appendCookie(m.appendHello(dst), m.HasCookie, &m.Cookie)
}

// ParseClientHello parses the content of a ClientHello. Errors: ErrShort,
// ErrIndex, ErrCookieLength, ErrPadding.
func ParseClientHello(content []byte) (ClientHello, error) {
	if len(content) < HelloSize+1 {
		return ClientHello{}, ErrShort
	}
	m := ClientHello{
		Attempt:   binary.LittleEndian.Uint32(content),
		Salt:      [SaltSize]byte(content[4:]),
		AEADOffer: content[36],
		KEM:       content[37],
		KEMKeyID:  binary.LittleEndian.Uint32(content[38:]),
		Doubted:   binary.LittleEndian.Uint32(content[42:]),
	}
	if m.Attempt == 0 {
		return ClientHello{}, ErrIndex
	}
	var padding []byte
	var err error
	m.HasCookie, m.Cookie, padding, err = cutCookie(content[HelloSize:])
	if err != nil {
		return ClientHello{}, err
	}
	if !zero(padding) {
		return ClientHello{}, ErrPadding
	}
	return m, nil
}

func appendCookie(dst []byte, has bool, cookie *[CookieSize]byte) []byte {
	if !has {
		return append(dst, 0)
	}
	return append(append(dst, CookieSize), cookie[:]...)
}

// cutCookie parses cookie_len and cookie at the front of b, which is not empty.
func cutCookie(b []byte) (has bool, cookie [CookieSize]byte, rest []byte, err error) {
	switch b[0] {
	case 0:
		return false, cookie, b[1:], nil
	case CookieSize:
		if len(b) < 1+CookieSize {
			return false, cookie, nil, ErrShort
		}
		return true, [CookieSize]byte(b[1:]), b[1+CookieSize:], nil
	}
	return false, cookie, nil, ErrCookieLength
}

// KKTFrame returns the 23-byte KKT frame of a KKTRequest's content, which it
// aliases, and checks the padding. Errors: ErrShort, ErrPadding.
func KKTFrame(content []byte) ([]byte, error) {
	if len(content) < KKTRequestSize {
		return nil, ErrShort
	}
	if !zero(content[KKTRequestSize:]) {
		return nil, ErrPadding
	}
	return content[:KKTRequestSize:KKTRequestSize], nil
}

// Ack is the clear answer to a ClientHello, section 4. (FinalAck is the sealed Ack at
// the end of a handshake or subsession.)
//
//	aead u8 · kem u8 · reserved u16 · nonce 16 · receiver_idx u32
type Ack struct {
	AEAD        uint8 // the one bit that the gateway chose
	KEM         uint8
	Nonce       [AckNonceSize]byte
	ReceiverIdx uint32 // of the session, drawn by the gateway; never 0
}

// Append appends the content to dst.
func (m *Ack) Append(dst []byte) []byte {
	dst = append(dst, m.AEAD, m.KEM, 0, 0)
	dst = append(dst, m.Nonce[:]...)
	return binary.LittleEndian.AppendUint32(dst, m.ReceiverIdx)
}

// ParseAck parses the content of a clear Ack. Errors: ErrShort, ErrTrailing, ErrReserved, ErrIndex.
func ParseAck(content []byte) (Ack, error) {
	if err := fixed(content, AckSize); err != nil {
		return Ack{}, err
	}
	if content[2]|content[3] != 0 {
		return Ack{}, ErrReserved
	}
	m := Ack{
		AEAD:        content[0],
		KEM:         content[1],
		Nonce:       [AckNonceSize]byte(content[4:]),
		ReceiverIdx: binary.LittleEndian.Uint32(content[4+AckNonceSize:]),
	}
	if m.ReceiverIdx == 0 {
		return Ack{}, ErrIndex
	}
	return m, nil
}

// Busy asks a client to retry later, with the cookie if there is one, section 4.
//
//	retry_after_ms u32 · cookie_len u8 (0 or 16) · cookie
type Busy struct {
	RetryAfterMillis uint32
	HasCookie        bool
	Cookie           [CookieSize]byte // if HasCookie
}

// Append appends the content to dst.
func (m *Busy) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.RetryAfterMillis)
	return appendCookie(dst, m.HasCookie, &m.Cookie)
}

// ParseBusy parses the content of a Busy. Errors: ErrShort, ErrTrailing, ErrCookieLength.
func ParseBusy(content []byte) (Busy, error) {
	if len(content) < 5 {
		return Busy{}, ErrShort
	}
	has, cookie, rest, err := cutCookie(content[4:])
	if err == nil {
		err = fixed(rest, 0)
	}
	if err != nil {
		return Busy{}, err
	}
	return Busy{binary.LittleEndian.Uint32(content), has, cookie}, nil
}

// Empty is a message without content: Held (the gateway still has the session that the hello
// doubts, section 11) and SubsessionRequest (the client is to start a subsession, section 7).
type Empty struct{}

// Append returns dst.
func (*Empty) Append(dst []byte) []byte { return dst }

// ParseEmpty parses the empty content. Error: ErrTrailing.
func ParseEmpty(content []byte) (Empty, error) { return Empty{}, fixed(content, 0) }

// RejectCode is the reason why a gateway rejects a hello, section 2.
type RejectCode uint8

// The codes of a Reject. Receivers keep unknown codes.
const (
	RejectVersion      RejectCode = 1
	RejectClock        RejectCode = 2
	RejectKEM          RejectCode = 3
	RejectAEAD         RejectCode = 4
	RejectShuttingDown RejectCode = 5
	RejectStaleKey     RejectCode = 6
)

var rejectCodes = names{
	RejectVersion:      "protocol version not supported",
	RejectClock:        "the clocks differ too much",
	RejectKEM:          "KEM not offered",
	RejectAEAD:         "no common AEAD",
	RejectShuttingDown: "shutting down",
	RejectStaleKey:     "the KEM key is stale",
}

func (c RejectCode) String() string { return rejectCodes.of("code", uint8(c)) }

// Reject rejects a hello, section 4. It is only a hint, since anyone with the
// gateway's public key can forge it.
//
//	code u8 · gateway_unix_seconds u64 · detail
type Reject struct {
	Code           RejectCode
	GatewaySeconds uint64 // the gateway's clock, unix
	Detail         Detail // at most MaxDetail bytes; Append truncates it
}

// Append appends the content to dst.
func (m *Reject) Append(dst []byte) []byte {
	dst = append(dst, byte(m.Code))
	dst = binary.LittleEndian.AppendUint64(dst, m.GatewaySeconds)
	return m.Detail.append(dst)
}

// ParseReject parses the content of a Reject; Detail aliases it. Errors:
// ErrShort, ErrDetailLong, ErrDetailText.
func ParseReject(content []byte) (Reject, error) {
	detail, err := parseDetail(content, 9)
	if err != nil {
		return Reject{}, err
	}
	return Reject{RejectCode(content[0]), binary.LittleEndian.Uint64(content[1:]), detail}, nil
}
