package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"lewes/bench/e2e/link"
	"lewes/bench/e2e/network"
)

const (
	// answerWait is how long an answer is awaited before the question is repeated, and patience how
	// long questions are repeated.
	answerWait = 500 * time.Millisecond
	patience   = 45 * time.Second
)

var (
	noUDP = link.Faults{Block: []link.Match{{Protocol: link.UDP}}}
	lossy = link.Faults{Loss: 0.1, Delay: 40 * time.Millisecond}
)

// checks are run in this order, each on a link without faults.
var checks = []struct {
	name string
	run  func(*localnet, context.Context) (result string, err error)
}{
	{"DNS through entry and exit", (*localnet).ask},
	{"HTTP/3 through entry and exit", (*localnet).fetch},
	{"NAT forgets the client", (*localnet).rebind},
	{"UDP blocked while connected", (*localnet).blockUDP},
	{"UDP blocked from the start", (*localnet).startWithoutUDP},
	{"10 % loss, 40 ms delay each way", (*localnet).lose},
}

// check runs the checks in a network of its own, and prints one line for each.
func check(ctx context.Context, out io.Writer, program string) (err error) {
	n, err := start(ctx, program, link.Faults{})
	if err != nil {
		return interrupted(err)
	}
	defer func() { err = errors.Join(err, n.close()) }()
	faults := 0
	for _, c := range checks {
		n.network.Link.Both(link.Faults{})
		result, err := c.run(n, ctx)
		if ctx.Err() != nil {
			return interrupted(ctx.Err())
		}
		word := "ok"
		if err != nil {
			word, result = "fault", err.Error()
			faults++
		}
		fmt.Fprintf(out, "%-6s %s: %s\n", word, c.name, result)
	}
	if faults > 0 {
		return fmt.Errorf("%d of %d checks failed; output of forward:\n%s", faults, len(checks), n.log())
	}
	return nil
}

func (n *localnet) log() string {
	if n.forward == nil {
		return "none"
	}
	return n.forward.Log()
}

// local is an address of forward on the client.
func local(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

// ask asks the DNS server who asks, which has to be the exit, and repeats the question until it
// is answered.
func (n *localnet) ask(ctx context.Context) (string, error) {
	tries, err := n.askOnce(ctx, 1, patience)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("answered to the exit, %s, attempt %d", network.ExitToTarget[0].Addr(), tries), nil
}

// askOnce is ask for one question with an id. It returns the number of attempts.
func (n *localnet) askOnce(ctx context.Context, id uint16, limit time.Duration) (tries int, err error) {
	conn, err := n.listen(client, local(0))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	question, err := questionDNS(id)
	if err != nil {
		return 0, err
	}
	buffer := make([]byte, 1500)
	for end := time.Now().Add(limit); time.Now().Before(end) && ctx.Err() == nil; {
		tries++
		if _, err := conn.WriteToUDPAddrPort(question, local(dnsPort)); err != nil {
			return tries, err
		}
		_ = conn.SetReadDeadline(time.Now().Add(answerWait)) // a failed Read shows it
		size, err := conn.Read(buffer)
		if err != nil {
			continue
		}
		got, from, err := readTXT(buffer[:size])
		if err != nil {
			return tries, err
		}
		if want := network.ExitToTarget[0].Addr().String(); from != want || got != id {
			return tries, fmt.Errorf("the target was asked by %q, not by the exit, %s", from, want)
		}
		return tries, nil
	}
	return tries, fmt.Errorf("no answer within %v", limit)
}

func (n *localnet) fetch(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := n.listen(client, local(0))
	if err != nil {
		return "", err
	}
	page, err := getHTTP3(ctx, conn, local(http3Port).String())
	if err == nil && !strings.HasPrefix(page, "HTTP/3 to "+network.ExitToTarget[0].Addr().String()+":") {
		err = fmt.Errorf("unexpected page %q", page)
	}
	return fmt.Sprintf("%q", page), err
}

// rebind: afterwards the client has another address and port for the entry.
func (n *localnet) rebind(ctx context.Context) (string, error) {
	n.network.Link.Rebind()
	return n.ask(ctx)
}

func (n *localnet) blockUDP(ctx context.Context) (string, error) {
	return n.askWithoutUDP(ctx, func() error { return nil })
}

func (n *localnet) startWithoutUDP(ctx context.Context) (string, error) {
	return n.askWithoutUDP(ctx, func() error {
		if err := n.stopForward(); err != nil {
			return err
		}
		return n.startForward(ctx)
	})
}

// askWithoutUDP asks after f, all while UDP is blocked: the answer has come over TCP.
func (n *localnet) askWithoutUDP(ctx context.Context, f func() error) (string, error) {
	before := n.network.Link.Counts(link.A).Blocked
	n.network.Link.Both(noUDP)
	if err := f(); err != nil {
		return "", err
	}
	result, err := n.ask(ctx)
	if err == nil && n.network.Link.Counts(link.A).Blocked == before {
		err = errors.New("no UDP packet was blocked")
	}
	return result + ", over TCP", err
}

func (n *localnet) lose(ctx context.Context) (string, error) {
	const questions = 20
	n.network.Link.Both(lossy)
	first := 0
	for id := range uint16(questions) {
		tries, err := n.askOnce(ctx, id, patience)
		if err != nil {
			return "", err
		}
		if tries == 1 {
			first++
		}
	}
	if n.network.Link.Counts(link.A).Lost+n.network.Link.Counts(link.B).Lost == 0 {
		return "", errors.New("no packet was lost")
	}
	return fmt.Sprintf("%d questions answered, %d of them at the first attempt", questions, first), nil
}
