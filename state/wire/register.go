package wire

import "encoding/binary"

// Register asks for a registration, section 9: a whole message, its parts
// joined. What the CBOR says is not this package's matter, not even that there
// is any: a Register that breaks section 9 is answered under its request id.
//
//	request_id u32 · CBOR map
type Register struct {
	RequestID uint32 // never 0
	CBOR      []byte
}

// Append appends the message to dst.
func (m *Register) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.RequestID)
	return append(dst, m.CBOR...)
}

// ParseRegister reads a whole message; CBOR aliases it. Errors: ErrShort,
// ErrLong, ErrRequestID.
func ParseRegister(message []byte) (Register, error) {
	id, cbor, err := parseRequest(message)
	if err != nil {
		return Register{}, err
	}
	if id == 0 {
		return Register{}, ErrRequestID
	}
	return Register{id, cbor}, nil
}

// RegisterResult answers a Register, section 9: a whole message, its parts
// joined.
//
//	request_id u32 · CBOR map
type RegisterResult struct {
	RequestID uint32 // 0: nobody asked; the allocation changed
	CBOR      []byte
}

// Append appends the message to dst.
func (m *RegisterResult) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.RequestID)
	return append(dst, m.CBOR...)
}

// ParseRegisterResult reads a whole message; CBOR aliases it. Errors: ErrShort,
// ErrLong.
func ParseRegisterResult(message []byte) (RegisterResult, error) {
	id, cbor, err := parseRequest(message)
	if err != nil {
		return RegisterResult{}, err
	}
	return RegisterResult{id, cbor}, nil
}

func parseRequest(message []byte) (id uint32, cbor []byte, err error) {
	if len(message) < 4 {
		return 0, nil, ErrShort
	}
	if len(message) > MaxRegisterMessage {
		return 0, nil, ErrLong
	}
	return binary.LittleEndian.Uint32(message), rest(message, 4), nil
}
