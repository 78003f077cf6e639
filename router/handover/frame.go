package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// Kind says what a frame is.
type Kind uint8

// The kinds of frame. Their numbers stay what they are: another version of the
// program reads them.
const (
	Hello    Kind = iota + 1
	Sockets       // descriptors, that later frames name by their cookies
	Ready         // the successor would take everything
	Refused       // it would not; the payload says why
	Keys          // of the whole gateway
	Shard         // what a shard has beside its sessions
	Sessions      // of a shard
	End           // that was everything
	Loaded        // the successor has read it
	Commit        // it is the successor's now
	Serving       // the successor serves
)

var kindNames = [...]string{Hello: "Hello", Sockets: "Sockets", Ready: "Ready", Refused: "Refused", Keys: "Keys", Shard: "Shard", Sessions: "Sessions",
	End: "End", Loaded: "Loaded", Commit: "Commit", Serving: "Serving"}

func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("frame %d", uint8(k))
}

const (
	headerSize = 6
	// MaxPayload bounds a frame.
	MaxPayload = 32 << 20
	// MaxFiles is how many descriptors one frame carries.
	MaxFiles = 253
)

// ErrFrame says that what came is no frame.
var ErrFrame = errors.New("handover: not a frame")

// Frame is what passes.
type Frame struct {
	Kind    Kind
	Payload []byte     // the receiver's, to be wiped
	Files   []*os.File // the receiver's, to be closed
}

// Close closes the frame's files and wipes its payload.
func (f *Frame) Close() {
	for _, file := range f.Files {
		_ = file.Close()
	}
	f.Files = nil
	clear(f.Payload)
}

// AppendHeader appends what stands before a payload.
func AppendHeader(b []byte, kind Kind, files, payload int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(payload))
	return append(b, byte(kind), byte(files))
}

// parseHeader reads what AppendHeader wrote.
func parseHeader(b []byte) (kind Kind, files, payload int, err error) {
	n := binary.LittleEndian.Uint32(b)
	if n > MaxPayload || b[5] > MaxFiles {
		return 0, 0, 0, fmt.Errorf("%w: %d bytes with %d descriptors", ErrFrame, n, b[5])
	}
	return Kind(b[4]), int(b[5]), int(n), nil
}
