package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

const testVar = "LEWES_TEST_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(testVar) == "" {
		os.Exit(m.Run())
	}
	if err := Main(testRoles); err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

type greeting struct{ Name string }

var testRoles = map[string]Role{
	"greeter": Start(func(_ context.Context, g greeting) (*Service, error) {
		if g.Name == "" {
			return nil, errors.New("no name")
		}
		return &Service{
			Result: "hello " + g.Name,
			Calls: map[string]Handler{
				"again": Method(func(_ context.Context, times int) ([]string, error) {
					if times < 0 {
						return nil, errors.New("less than never")
					}
					return strings.Split(strings.Repeat(g.Name, times), ""), nil
				}),
				"wait": Method(func(ctx context.Context, _ None) (None, error) {
					<-ctx.Done()
					return None{}, ctx.Err()
				}),
				"hang": Method(func(context.Context, None) (None, error) { select {} }),
				"die": Method(func(context.Context, None) (None, error) {
					_, _ = os.Stderr.WriteString("out of greetings")
					os.Exit(3)
					return None{}, nil
				}),
				"spin": Method(func(_ context.Context, d time.Duration) (n int, _ error) {
					for end := time.Now().Add(d); time.Now().Before(end); n++ {
					}
					return n, nil
				}),
				"interfaces": Method(func(context.Context, None) (names []string, err error) {
					all, err := net.Interfaces()
					for _, i := range all {
						names = append(names, i.Name)
					}
					return names, err
				}),
			},
		}, nil
	}),
}

func launcher() Launcher {
	return Launcher{Path: os.Args[0], Env: []string{testVar + "=1"}}
}

func start(t *testing.T, where Where) *Process {
	t.Helper()
	var said string
	p, err := launcher().Start(t.Context(), "greeter", greeting{"ann"}, &said, where)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	if said != "hello ann" {
		t.Fatalf("it said %q", said)
	}
	return p
}

func TestCalls(t *testing.T) {
	p := start(t, Where{})
	var got []string
	if err := p.Call(t.Context(), "again", 2, &got); err != nil || strings.Join(got, "") != "annann" {
		t.Errorf("%q, %v", got, err)
	}
	if err := p.Call(t.Context(), "again", -1, nil); err == nil || !strings.Contains(err.Error(), "less than never") || !strings.Contains(err.Error(), "greeter") {
		t.Errorf("error %v", err)
	}
	if err := p.Call(t.Context(), "again", "two", nil); err == nil || !strings.Contains(err.Error(), "parameters") {
		t.Errorf("wrong parameters: %v", err)
	}
	if err := p.Call(t.Context(), "sing", None{}, nil); err == nil || !strings.Contains(err.Error(), `no call "sing"`) {
		t.Errorf("unknown call: %v", err)
	}
	// None of that ends it.
	if err := p.Call(t.Context(), "again", 1, &got); err != nil {
		t.Error(err)
	}
}

func TestUsageOfWorker(t *testing.T) {
	p := start(t, Where{})
	before, err := p.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Call(t.Context(), "spin", 60*time.Millisecond, nil); err != nil {
		t.Fatal(err)
	}
	after, err := p.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if used := after.Since(before); used.CPU <= 0 {
		t.Errorf("60 ms of work are %+v", used)
	}
	if settled, err := p.Settle(t.Context()); err != nil || settled.Mallocs == 0 {
		t.Errorf("%+v, %v", settled, err)
	}
}

func TestProfile(t *testing.T) {
	p := start(t, Where{})
	file := filepath.Join(t.TempDir(), "cpu.pprof")
	if err := p.Profile(t.Context(), ""); err == nil {
		t.Error("a profile was stopped that was not started")
	}
	if err := p.Profile(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if err := p.Call(t.Context(), "spin", 30*time.Millisecond, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Profile(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(got, []byte{0x1f, 0x8b}) {
		t.Errorf("%d bytes that are no profile, %v", len(got), err)
	}
	if err := p.Profile(t.Context(), filepath.Join(file, "no-folder")); err == nil {
		t.Error("a profile goes to a file that cannot be")
	}
}

func TestStartFails(t *testing.T) {
	for _, row := range []struct {
		name     string
		launcher Launcher
		role     string
		params   any
		want     string
	}{
		{"unknown role", launcher(), "singer", None{}, `no role "singer"`},
		{"its own reason", launcher(), "greeter", greeting{}, "no name"},
		{"no such program", Launcher{Path: "/does/not/exist"}, "greeter", None{}, "no such file"},
		{"a program that is no worker", Launcher{Path: os.Args[0], Args: []string{"-test.run=NoSuchTest"}}, "greeter", greeting{"x"}, "worker exited"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, err := row.launcher.Start(t.Context(), row.role, row.params, nil, Where{})
			if err == nil {
				p.Stop()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), row.want) {
				t.Errorf("error %v, want %q in it", err, row.want)
			}
		})
	}
}

func TestExitIsReported(t *testing.T) {
	p := start(t, Where{})
	err := p.Call(t.Context(), "die", None{}, nil)
	if err == nil || !strings.Contains(err.Error(), "out of greetings") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error %v", err)
	}
	if again := p.Call(t.Context(), "again", 1, nil); again == nil {
		t.Error("a dead worker answers")
	}
}

func TestStopEndsHangingCalls(t *testing.T) {
	for _, call := range []string{"wait", "hang"} {
		p := start(t, Where{})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := p.Call(ctx, call, None{}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", call, err)
		}
		cancel()
		began := time.Now()
		p.Stop()
		if took := time.Since(began); took > stopWait+time.Second {
			t.Errorf("%s: took %v to stop", call, took)
		}
		if p.cmd.ProcessState == nil {
			t.Errorf("%s: the process is not gone", call)
		}
	}
}

// The input of a worker ends if the bench is killed.
func TestServeEndsWithItsInput(t *testing.T) {
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), in, &out, testRoles) }()
	for _, r := range []request{{Call: "start", Role: "greeter", Params: json.RawMessage(`{"Name":"x"}`)}, {Call: "wait", Params: json.RawMessage(`{}`)}} {
		if err := json.NewEncoder(feed).Encode(&r); err != nil {
			t.Fatal(err)
		}
	}
	feed.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it goes on")
	}
	if got := out.String(); !strings.Contains(got, "hello x") || !strings.Contains(got, "context canceled") {
		t.Errorf("answers: %s", got)
	}
}

func TestNetworkNamespace(t *testing.T) {
	var said string
	p, err := launcher().Start(t.Context(), "greeter", greeting{"ann"}, &said, Where{New: true})
	if errors.Is(err, ErrNoNamespaces) {
		if runtime.GOOS == "linux" && os.Geteuid() == 0 {
			t.Log("root, and still no namespaces:", err)
		}
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	q := start(t, Where{In: p})
	for _, worker := range []*Process{p, q} {
		var names []string
		if err := worker.Call(t.Context(), "interfaces", None{}, &names); err != nil || len(names) != 1 || names[0] != "lo" {
			t.Errorf("interfaces %q, %v", names, err)
		}
	}
}
