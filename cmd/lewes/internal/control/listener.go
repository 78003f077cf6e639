package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The modes of a socket that users of a group may connect to.
const (
	dirMode    = 0o750
	socketMode = 0o660
)

// ErrInUse means that another process serves the socket.
var ErrInUse = errors.New("another process serves it")

// Listen creates a socket, and its directory, for the process's own user; SetGroup lets others connect.
// It replaces a socket that nobody serves. The file is not removed when the listener is closed, since a
// successor may serve it.
func Listen(path string) (*net.UnixListener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, err
	}
	err := os.Mkdir(dir, dirMode)
	if err == nil {
		err = os.Chmod(dir, dirMode) // whatever the umask
	} else if errors.Is(err, fs.ErrExist) {
		err = nil // perhaps systemd's, whose mode is the administrator's choice
	}
	if err != nil {
		return nil, err
	}
	return listen(path, 0o600)
}

// SetGroup lets a group connect to a socket of Listen: a name or number, or empty for the process's own.
func SetGroup(path, group string) error {
	gid := os.Getegid()
	if group != "" {
		var err error
		if gid, err = groupID(group); err != nil {
			return err
		}
	}
	for _, file := range []string{filepath.Dir(path), path} {
		if hasGroup(file, gid) {
			continue // a service may lack the system call
		}
		if err := os.Chown(file, -1, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, socketMode)
}

// ListenPrivate creates a socket for the process's own user, and its directory.
func ListenPrivate(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return listen(path, 0o600)
}

func listen(path string, mode os.FileMode) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		if c, dialErr := net.DialUnix("unix", nil, addr); dialErr == nil {
			_ = c.Close()
			return nil, fmt.Errorf("%s: %w", path, ErrInUse)
		} else if !errors.Is(dialErr, syscall.ECONNREFUSED) {
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		l, err = net.ListenUnix("unix", addr)
	}
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, mode); err != nil {
		_ = l.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return l, nil
}

// groupID returns the number of a group.
func groupID(group string) (int, error) {
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// peer is the process at the other end of a connection.
type peer struct {
	known    bool
	uid, pid int
}

// overflowUID is the user that the kernel names for users without a number in this namespace.
const overflowUID = 65534

// operator reports whether the peer may act on a process of a user.
func (p peer) operator(uid int) bool {
	return p.known && (p.uid == 0 || p.uid == uid && uid != overflowUID)
}

// conn is a connection with its peer.
type conn struct {
	*net.UnixConn
	peer   peer
	busy   atomic.Bool // a request is under way
	opened time.Time
	of     *boundedListener
	once   sync.Once
}

// Close closes the connection and makes room for another.
func (c *conn) Close() error {
	c.once.Do(func() { c.of.remove(c) })
	return c.UnixConn.Close()
}

// boundedListener bounds the open connections. A further one takes the place of the oldest that has no
// request under way, or is refused.
type boundedListener struct {
	*net.UnixListener
	uid int

	mu   sync.Mutex
	open map[*conn]struct{}
}

func newBoundedListener(l *net.UnixListener, uid int) *boundedListener {
	return &boundedListener{UnixListener: l, uid: uid, open: make(map[*conn]struct{})}
}

const tooMany = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\nRetry-After: 1\r\n\r\n" +
	`{"error":"too many connections to the control socket: try again"}` + "\n"

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		u, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		c := &conn{UnixConn: u, peer: peerOf(u), opened: time.Now(), of: l}
		idle, ok := l.add(c)
		if idle != nil {
			_ = idle.Close()
		}
		if ok {
			return c, nil
		}
		_ = u.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = u.Write([]byte(tooMany)) // into the empty buffer of the socket
		_ = u.Close()
	}
}

// add adds a connection if there is room, and returns the idle one that has to make room for it.
func (l *boundedListener) add(c *conn) (idle *conn, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	operator, readers := c.peer.operator(l.uid), 0
	for o := range l.open {
		reader := !o.peer.operator(l.uid)
		if reader {
			readers++
		}
		// An operator's connection does not make room for another user's.
		if !o.busy.Load() && (operator || reader) && (idle == nil || o.opened.Before(idle.opened)) {
			idle = o
		}
	}
	if len(l.open) < MaxConnections && (operator || readers < maxReaders) {
		idle = nil
	} else if idle == nil {
		return nil, false
	} else {
		delete(l.open, idle)
	}
	l.open[c] = struct{}{}
	return idle, true
}

func (l *boundedListener) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}
