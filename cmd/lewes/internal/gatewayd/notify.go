package gatewayd

import (
	"fmt"
	"net"
	"os"
	"time"
)

// notifyTimeout bounds a write to systemd's socket, whose queue may be full.
const notifyTimeout = 5 * time.Second

// Notify sends a state to systemd (sd_notify(3)), if NOTIFY_SOCKET is set.
func Notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET") // a leading @ marks an abstract socket
	if name == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd of %q: %w", state, err)
	}
	defer conn.Close()
	if err = conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err == nil {
		_, err = conn.Write([]byte(state))
	}
	if err != nil {
		return fmt.Errorf("notify systemd of %q: %w", state, err)
	}
	return nil
}
