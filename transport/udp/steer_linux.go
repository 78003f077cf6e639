package udp

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// attach gives the sockets that share an address the program that chooses among them.
func (s Steer) attach(raw syscall.RawConn) error {
	program, err := s.program()
	if err != nil {
		return fmt.Errorf("assemble the steering program: %w", err)
	}
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return onFD(raw, func(fd int) error {
		return os.NewSyscallError("setsockopt SO_ATTACH_REUSEPORT_CBPF", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}))
	})
}

// Where receiver_idx lies in a packet, little-endian (sections 1 and 4 of
// PROTOCOL.md): in the header, and, where that is 0 because it is a
// ClientHello, at the start of the content.
const (
	indexOffset      = 0
	helloIndexOffset = 18
)

// program is Shard as the kernel runs it on a UDP payload. Its loads are big-endian,
// the index is not: it is put together from four bytes. A load beyond the
// end of the packet ends the program with 0, which is the shard for such packets.
func (s Steer) program() ([]bpf.RawInstruction, error) {
	hello := loadLittleEndian(helloIndexOffset)
	program := append(loadLittleEndian(indexOffset),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: uint8(len(hello))})
	program = append(program, hello...)
	program = append(program,
		bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: s.Secret | 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 16},
		bpf.ALUOpConstant{Op: bpf.ALUOpMod, Val: uint32(max(s.Shards, 1))},
		bpf.RetA{},
	)
	return bpf.Assemble(program)
}

// loadLittleEndian puts the four bytes at offset into A, the first lowest.
func loadLittleEndian(offset uint32) []bpf.Instruction {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offset + 3, Size: 1}}
	for i := 2; i >= 0; i-- {
		program = append(program,
			bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 8},
			bpf.TAX{},
			bpf.LoadAbsolute{Off: offset + uint32(i), Size: 1},
			bpf.ALUOpX{Op: bpf.ALUOpOr},
		)
	}
	return program
}
