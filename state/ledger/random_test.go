package ledger

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lewes/crypto/identity"
)

// TestRandomChanges makes random changes, with refusals among them, and restarts. Buckets always agree with each other, and the
// tickets and bytes with a model.
func TestRandomChanges(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		path := filepath.Join(dir, fmt.Sprint("ledger-", runs))
		l := open(t, path)
		ctx := context.Background()
		now := start
		spentBy := map[byte]identity.PublicKey{}
		granted, used := map[identity.PublicKey]uint64{}, map[identity.PublicKey]uint64{}
		id := func(what string) byte { return rapid.ByteRange(1, 4).Draw(r, what) }
		refusal := func(err error) {
			for _, known := range []error{nil, ErrSpent, ErrAddress, ErrAttachments, ErrNoAttachment, ErrKeyClosed} {
				if errors.Is(err, known) {
					return
				}
			}
			r.Fatal(err)
		}
		r.Repeat(map[string]func(*rapid.T){
			"register": func(r *rapid.T) {
				account, n := client(id("account")), rapid.ByteRange(1, 20).Draw(r, "ticket")
				e := spendEntry(account, n, 10)
				e.Request[2] = account[1]
				e.Now, e.Grant.Expires = now, start.AddDate(1, 0, int(n))
				if rapid.Bool().Draw(r, "without ticket") {
					e.Ticket, e.Grant = nil, nil
				}
				if rapid.Bool().Draw(r, "dvpn") {
					e.Attach = peer(id("key"), fmt.Sprintf("10.0.0.%d", id("address")))
				}
				receipt, err := l.Commit(ctx, e)
				refusal(err)
				if err != nil || e.Ticket == nil {
					return
				}
				if by, ok := spentBy[n]; ok != (receipt.Outcome == Repeated) || ok && by != account {
					r.Fatalf("ticket %d of %v: %v, spent by %v", n, account, receipt.Outcome, by)
				}
				if receipt.Outcome == New {
					spentBy[n] = account
					granted[account] += e.Grant.Bytes
				}
			},
			"remove": func(r *rapid.T) {
				refusal(l.RemoveAttachment(ctx, client(id("account")), DVPN, [32]byte{6, id("key")}, 0, now))
			},
			"set": func(r *rapid.T) {
				a := *peer(id("key"), "10.0.0.200")
				a.State = State(rapid.ByteRange(uint8(Adding), uint8(Removing)).Draw(r, "state"))
				refusal(l.SetAttachment(ctx, client(id("account")), a, now))
			},
			"use": func(r *rapid.T) {
				account, n := client(id("account")), rapid.Uint64Range(0, 1500).Draw(r, "bytes")
				use(t, l, now, map[identity.PublicKey]uint64{account: n})
				used[account] = min(used[account]+n, granted[account])
			},
			"wait": func(r *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 30).Draw(r, "minutes")) * time.Minute)
			},
			"restart": func(r *rapid.T) {
				_ = l.Close()
				report, err := Check(path)
				if err != nil || report.Err() != nil {
					r.Fatal(err, report.Err())
				}
				l = open(t, path)
			},
			"": func(r *rapid.T) {
				owners := map[netip.Addr]identity.PublicKey{}
				keys := map[[32]byte]bool{}
				err := l.Accounts(func(a Account) error {
					if left, _ := a.Left(now); left != granted[a.ID]-used[a.ID] {
						r.Fatalf("%v: %d bytes left of %d with %d used", a.ID, left, granted[a.ID], used[a.ID])
					}
					for _, at := range a.Attachments {
						if keys[at.WireGuardKey] {
							r.Fatalf("key %x twice", at.WireGuardKey[:2])
						}
						keys[at.WireGuardKey] = true
						for _, ip := range at.addresses() {
							if by, ok := owners[ip]; ok && by != a.ID {
								r.Fatalf("%v has two owners", ip)
							}
							owners[ip] = a.ID
						}
					}
					return nil
				})
				if err != nil {
					r.Fatal(err)
				}
			},
		})
		_ = l.Close()
		report, err := Check(path)
		if err != nil || report.Err() != nil || report.Spent != len(spentBy) {
			r.Fatal(err, report.Err(), report.Spent, len(spentBy))
		}
	})
}
