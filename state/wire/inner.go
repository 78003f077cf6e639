package wire

import "encoding/binary"

// ParseInner looks at the packet inside a ForwardPacket as far as an entry
// gateway may judge it, section 8, and returns the index that the packet claims
// and whether it is a ClientHello. Of a sealed packet there is only the header
// to see; of a ClientHello, whose index stands in its content, type and index,
// which are in the same place in every version.
//
// Errors: those of ParseHeader, ErrShort also for a ClientHello that ends before
// its index; ErrBootstrap for a packet of index 0 that is no clear ClientHello;
// ErrIndex for a ClientHello that claims index 0.
func ParseInner(p []byte) (idx uint32, hello bool, err error) {
	h, err := ParseHeader(p)
	if err != nil {
		return 0, false, err
	}
	if h.ReceiverIdx != 0 {
		return h.ReceiverIdx, false, nil
	}
	t, content, err := ParseBody(Body(p))
	if err != nil && err != ErrVersion || h.Level != LevelClear || t != TypeClientHello {
		return 0, false, ErrBootstrap
	}
	if len(content) < 4 {
		return 0, false, ErrShort
	}
	if idx = binary.LittleEndian.Uint32(content); idx == 0 {
		return 0, false, ErrIndex
	}
	return idx, true, nil
}
