package ledger

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lewes/crypto/identity"
)

var long = flag.Bool("long", false, "run the long tests")

// spenderFile makes the test binary a process that spends tickets until it is killed.
const spenderFile = "LEWES_TEST_LEDGER"

func TestMain(m *testing.M) {
	if path := os.Getenv(spenderFile); path != "" {
		spender(path, os.Getenv(spenderFile+"_ROUND"))
		return
	}
	// Most tests do not measure the disk: where there is one in memory, they wait for no sync.
	disk = os.TempDir()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	os.Exit(m.Run())
}

// disk is the folder for temporary files on a disk.
var disk string

const spenders = 20

// numbered makes ticket n of a round; its account is one of few.
func numbered(round string, n int) Entry {
	e := spendEntry(client(byte(n%spenders)), 0, 10)
	copy(e.Request[1:], fmt.Sprintf("%s-%d", round, n))
	e.Ticket.Spent = e.Request
	e.Grant.Expires = start.Add(time.Duration(1+n) * time.Minute)
	return e
}

// spender spends from 20 goroutines, each ticket twice, and prints the number of each after the first answer.
func spender(path, round string) {
	l, err := Open(path, Options{Gateway: gateway, Now: start})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range spenders {
		wg.Go(func() {
			for {
				n := int(next.Add(1))
				e := numbered(round, n)
				for range 2 {
					if _, err := l.Commit(context.Background(), e); err != nil {
						fmt.Println("error", err)
						return
					}
					fmt.Println(n)
				}
				_ = l.Use(context.Background(), map[identity.PublicKey]uint64{e.Account: 1000}, start)
			}
		})
	}
	wg.Wait()
}

// TestKill kills a process with kill -9 while it spends tickets. Each that it reported as spent is spent, and each grant has
// one ticket.
func TestKill(t *testing.T) {
	rounds, answers := 6, 60
	if testing.Short() {
		rounds = 2
	}
	if *long {
		rounds, answers = 50, 200
	}
	path := filepath.Join(t.TempDir(), "ledger")
	for round := range rounds {
		name := fmt.Sprint(round)
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), spenderFile+"="+path, spenderFile+"_ROUND="+name)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		spent := map[int]bool{}
		lines := bufio.NewScanner(out)
		for i := 0; lines.Scan(); i++ {
			var n int
			if _, err := fmt.Sscan(lines.Text(), &n); err != nil {
				t.Fatalf("round %d: %s", round, lines.Text())
			}
			spent[n] = true
			if i == answers+round%7 {
				_ = child.Process.Kill() // the rest of the pipe is still read
			}
		}
		_ = child.Wait()

		l := open(t, path)
		grants := uint64(0)
		for n := range spent {
			e := numbered(name, n)
			if found, same, err := l.Spent(*e.Ticket, e.Account, e.Request); !found || !same || err != nil {
				t.Fatalf("round %d: ticket %d of %d is lost: %v, %v, %v", round, n, len(spent), found, same, err)
			}
		}
		if err := l.Accounts(func(a Account) error {
			grants += a.numbers
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := Check(path)
		if err != nil || r.Err() != nil {
			t.Fatalf("round %d: %v, %v", round, err, r.Err())
		}
		if uint64(r.Spent) != grants {
			t.Fatalf("round %d: %d tickets, %d grants", round, r.Spent, grants)
		}
	}
}
