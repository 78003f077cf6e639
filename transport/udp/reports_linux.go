package udp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A connected socket asks for every ICMP error (IP_RECVERR). Without that the kernel
// tells of a refused port, and not of a host or network that cannot be reached. In
// return it keeps each error in a queue, which has to be emptied: it takes from the
// receive buffer.

// maxReports bounds what is taken at once; ICMP can be forged in any number.
const maxReports = 256

// takeReports empties the queue of errors and calls each with those that came
// from the network. (What this host itself refused is there as well, and the call
// that sent it knows already.)
func takeReports(fd uintptr, each func(unix.Errno)) {
	var oob [256]byte
	for range maxReports {
		_, n, _, _, err := unix.Recvmsg(int(fd), nil, oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		if e := parseReport(oob[:n]); e != 0 {
			each(e)
		}
	}
}

// reported takes the errors that the kernel keeps for the socket, counts them, and returns
// the first as ReadBatch does; nil where there is none.
func (m *mmsg) reported() (first error) {
	_ = m.c.raw.Control(func(fd uintptr) {
		takeReports(fd, func(e unix.Errno) {
			m.c.counters.reported[kindOf(e)].Add(1)
			if first == nil {
				first = m.c.readError(e)
			}
		})
	})
	return first
}

// parseReport reads the error from the network that control messages tell of, 0 where
// there is none.
func parseReport(b []byte) unix.Errno {
	messages, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		v4 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(m.Data) < int(unsafe.Sizeof(unix.SockExtendedErr{})) {
			continue
		}
		switch e := (*unix.SockExtendedErr)(unsafe.Pointer(unsafe.SliceData(m.Data))); e.Origin {
		case unix.SO_EE_ORIGIN_ICMP, unix.SO_EE_ORIGIN_ICMP6:
			return unix.Errno(e.Errno)
		}
	}
	return 0
}
