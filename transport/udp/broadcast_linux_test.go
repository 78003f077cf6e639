package udp

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"lewes/transport"
)

// TestBroadcastIsDenied looks at the option of every socket and connects to two broadcast addresses.
//
// Shows R8.27.
func TestBroadcastIsDenied(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		for _, addr := range loopbacks {
			to := listenOn(t, addr, o)
			for _, c := range []*Conn{to, dialTo(t, to.LocalAddrPort(), o)} {
				err := onFD(c.raw, func(fd int) error {
					on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST)
					if on != 0 {
						t.Errorf("the socket %v may send to broadcast addresses", c.LocalAddr())
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, broadcast := range []string{"127.255.255.255:7", "255.255.255.255:7"} {
			c, err := Dial(netip.MustParseAddrPort(broadcast), o)
			if err == nil {
				_ = c.Close()
			}
			if !errors.Is(err, transport.ErrDenied) && !errors.Is(err, transport.ErrUnreachable) {
				t.Errorf("connecting to %s: %v", broadcast, err)
			}
		}
	})
}
