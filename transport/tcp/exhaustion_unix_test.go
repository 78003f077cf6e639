//go:build unix

package tcp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lewes/transport"
)

const childEnv = "LEWES_TCP_TEST_CHILD"

// TestAcceptWithoutDescriptors has a process run out of descriptors: connections wait until some
// are free again, and it says so once.
func TestAcceptWithoutDescriptors(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		fewDescriptors(t)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestAcceptWithoutDescriptors$", "-test.timeout=60s")
	child.Env = append(os.Environ(), childEnv+"=1")
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = child.Wait()
	}()
	lines := bufio.NewScanner(out)
	next := func(prefix string) string {
		t.Helper()
		for lines.Scan() {
			if s, found := strings.CutPrefix(lines.Text(), prefix); found {
				return s
			}
		}
		t.Fatalf("the process ended before it said %q", prefix)
		return ""
	}
	at, err := netip.ParseAddrPort(next("at "))
	if err != nil {
		t.Fatal(err)
	}
	var idle []net.Conn
	for range 60 {
		conn, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle = append(idle, conn)
	}
	waits, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	send(t, waits, packetOf(40, 1))
	next("short")
	for _, conn := range idle {
		_ = conn.Close()
	}
	if got := frames(t, waits); len(got) != 1 {
		t.Errorf("%d answers after descriptors were free again", len(got))
	}
	_ = in.Close()
	if said := next("said "); said != "1" {
		t.Errorf("the operator was told %s times", said)
	}
}

// fewDescriptors is the process that runs out of them.
func fewDescriptors(t *testing.T) {
	said := atomic.Int64{}
	l, err := Listen(context.Background(), Config{
		Addrs:          loopback,
		ReceiveTimeout: time.Minute,
		Notify:         func(error) { said.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 40, Max: 40}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("at", l.Groups[0].Addr)
	go func() {
		for l.Stats().AcceptErrors < 3 {
			time.Sleep(time.Millisecond)
		}
		fmt.Println("short")
	}()
	go func() {
		batch := make([]transport.Packet, 4)
		for {
			n, err := l.Shards[0].ReadBatch(batch)
			if err != nil {
				return
			}
			_, _ = l.Shards[0].WriteBatch(batch[:n])
			for i := range batch[:n] {
				l.Shards[0].End(batch[i].Path)
			}
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
	fmt.Println("said", said.Load())
}
