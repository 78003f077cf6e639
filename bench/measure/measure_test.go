package measure

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), HeaderSize, 2000).Draw(t, "datagram")
		run, at := rapid.Uint32().Draw(t, "run"), rapid.Int64().Draw(t, "time")
		PutHeader(b, run, at)
		if r, a, ok := Header(b); r != run || a != at || !ok {
			t.Fatalf("%d, %d, %v; want %d, %d", r, a, ok, run, at)
		}
	})
}

func FuzzHeader(f *testing.F) {
	good := make([]byte, HeaderSize)
	PutHeader(good, 7, -1)
	f.Add(good)
	f.Add(good[:HeaderSize-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		run, at, ok := Header(b)
		if !ok {
			return
		}
		again := make([]byte, HeaderSize)
		PutHeader(again, run, at)
		if string(again) != string(b[:HeaderSize]) {
			t.Errorf("%x reads as run %d, time %d, which is %x", b[:HeaderSize], run, at, again)
		}
	})
}

func TestPacerSendsWholeUnits(t *testing.T) {
	for _, p := range []Pacer{
		{Rate: 1000, For: 50 * time.Millisecond},
		{Rate: 50_000, For: 50 * time.Millisecond, Unit: 52},
		{Rate: 1_000_000, For: 50 * time.Millisecond, Unit: 52, Most: 500},
		{Rate: 10, For: 20 * time.Millisecond, Unit: 64}, // less than one unit in that time
	} {
		total := 0
		r, err := p.Run(t.Context(), func(n int) (int, error) {
			if n%max(p.Unit, 1) != 0 || n > max(p.Most, p.Unit, 1) {
				t.Errorf("%+v: burst of %d", p, n)
			}
			total += n
			return n, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Sent != uint64(total) || r.Took < p.For {
			t.Errorf("%+v: sent %d, result %+v", p, total, r)
		}
		if due := p.Rate * r.Took.Seconds(); float64(r.Sent) > due {
			t.Errorf("%+v: %d sent in %v, %.0f were due", p, r.Sent, r.Took, due)
		}
	}
}

func TestPacerDoesNotBurstAfterDelay(t *testing.T) {
	const rate = 100_000
	first := true
	r, err := Pacer{Rate: rate, For: 100 * time.Millisecond, Most: 1 << 20}.Run(t.Context(), func(n int) (int, error) {
		if first {
			first = false
			time.Sleep(50 * time.Millisecond)
		} else if most := int(rate*catchUp.Seconds()) + 1; n > most {
			t.Errorf("burst of %d, the limit is %d", n, most)
		}
		return n, nil
	})
	if err != nil || r.Skipped < rate*0.04 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestPacerEnds(t *testing.T) {
	broken := errors.New("socket closed")
	if _, err := (Pacer{Rate: 1e6, For: time.Minute}).Run(t.Context(), func(int) (int, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := (Pacer{Rate: 1000, For: time.Minute}).Run(ctx, func(n int) (int, error) { cancel(); return n, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestUsage(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("usage is measured on Linux only")
	}
	before := Self()
	var kept [][]byte
	for i := range 1000 {
		kept = append(kept, []byte(strings.Repeat("x", 1000+i)))
	}
	for Self().CPU == before.CPU {
	}
	if used := Self().Since(before); used.Mallocs < 1000 || used.Resident == 0 {
		t.Errorf("%d objects: %+v", len(kept), used)
	}
	Settle()
	other, err := OfProcess(os.Getpid())
	if err != nil || other.CPU <= before.CPU || other.Resident == 0 {
		t.Errorf("this process by its id: %+v, %v", other, err)
	}
	if _, err := OfProcess(1<<22 + 1); err == nil {
		t.Error("a process that does not exist has a usage")
	}
}
