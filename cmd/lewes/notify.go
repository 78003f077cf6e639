package main

import (
	"fmt"
	"net"
	"os"
	"time"
)

// notifyPatience is how long systemd may take to make room for what it is told.
const notifyPatience = 5 * time.Second

// notify tells systemd how this service is, if it asked to be told (sd_notify(3)):
// one datagram to the Unix socket that NOTIFY_SOCKET names. A name that begins with
// @ is an abstract one.
func notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling systemd %q: %w", state, err)
	}
	defer conn.Close()
	if err = conn.SetWriteDeadline(time.Now().Add(notifyPatience)); err == nil {
		_, err = conn.Write([]byte(state))
	}
	if err != nil {
		return fmt.Errorf("telling systemd %q: %w", state, err)
	}
	return nil
}
