package peers

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"lewes/transport/uri"
)

// TestWhoKnowsWhat looks into the memory and the logs of an entry and an exit that
// are carrying traffic: the entry's hold no target and nothing of what is said, the
// exit's hold no client address. That each holds what it does work with shows that
// the search would find the rest.
func TestWhoKnowsWhat(t *testing.T) {
	key, public := keygen(t)
	const debug = "[log]\nlevel = \"debug\"\n"
	exit := startGateway(t, "[egress]\nallow = [\"127.66.0.0/16\"]\n"+debug, public)
	entry := startGateway(t, debug+fmt.Sprintf("[[gateway]]\nuri = %q\n", exit.uri))
	entry.admitAsEntry(t, key)

	const spoken = "what the client and the target tell each other, number "
	var clients, targets, speech, names []secret
	for i, ends := range []struct{ client, target string }{
		{"127.11.22.33", "127.66.77.88"},
		{"127.12.23.34", "127.66.99.101"},
		{"127.13.24.35", "127.66.111.122"},
	} {
		echo := udpSocket(t, ends.target)
		go serveEcho(echo)
		way := relay(t, ends.client, entry.uri)
		_, local := startForward(t, key, "--gateway", exit.uri.String(), "--via", way.uri.String(), "127.0.0.1:0="+addrOf(echo).String())
		for n := range 20 {
			exchange(t, local[0], fmt.Appendf(nil, "%s%d.%d", spoken, i, n))
		}
		clients = append(clients, address("the client "+ends.client, way.source))
		targets = append(targets, address("the target "+ends.target, addrOf(echo)))
	}
	speech = append(speech, words("what was said", spoken))

	// A target by name: one that the resolver never asks anybody about (RFC 7686).
	const hidden = "hidden-4711.lewes-peers.onion"
	way := relay(t, "127.14.25.36", entry.uri)
	forward, local := startForward(t, key, "--gateway", exit.uri.String(), "--via", way.uri.String(), "127.0.0.1:0="+hidden+":4711")
	whisper(t, local[0])
	forward.await(t, "found no address for")
	names = append(names, words("the name "+hidden, hidden))

	entryLog, exitLog := []byte(entry.log()), []byte(exit.log())
	for _, secrets := range [][]secret{targets, names, speech} {
		lacks(t, "the entry's log", entryLog, secrets...)
	}
	for _, secrets := range [][]secret{clients, speech} {
		lacks(t, "the exit's log", exitLog, secrets...)
	}
	lacks(t, "the entry's log", entryLog, clients...) // no log line has a whole client address

	entryMemory, exitMemory := memory(t, entry.cmd.Process.Pid), memory(t, exit.cmd.Process.Pid)
	t.Logf("searched %d MiB of the entry and %d MiB of the exit", len(entryMemory)>>20, len(exitMemory)>>20)
	holds(t, "the entry's memory", entryMemory, clients...)
	for _, secrets := range [][]secret{targets, names, speech} {
		holds(t, "the exit's memory", exitMemory, secrets...)
		lacks(t, "the entry's memory", entryMemory, secrets...)
	}
	lacks(t, "the exit's memory", exitMemory, clients...)
}

// detour is a way to a gateway on which a client appears under another address.
type detour struct {
	uri    uri.Gateway    // of the gateway, by this way
	source netip.AddrPort // what the gateway takes for the client's address
}

// relay makes a detour to a gateway, for one client.
func relay(t *testing.T, source string, gateway uri.Gateway) detour {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", gateway.Address())
	if err != nil {
		t.Fatal(err)
	}
	front, back := udpSocket(t, "127.0.0.1"), udpSocket(t, source)
	var client atomic.Pointer[netip.AddrPort]
	pass := func(in *net.UDPConn, each func(datagram []byte, from netip.AddrPort)) {
		buffer := make([]byte, 2048)
		for {
			n, from, err := in.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return // the test is over
			}
			each(buffer[:n], from)
		}
	}
	go pass(front, func(datagram []byte, from netip.AddrPort) {
		client.Store(&from)
		_, _ = back.WriteTo(datagram, to) // what gets lost is sent again
	})
	go pass(back, func(datagram []byte, _ netip.AddrPort) {
		_, _ = front.WriteToUDPAddrPort(datagram, *client.Load())
	})
	gateway.Host, gateway.Port = "127.0.0.1", addrOf(front).Port()
	return detour{gateway, addrOf(back)}
}

// whisper sends a datagram to which no answer is expected.
func whisper(t *testing.T, to netip.AddrPort) {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("is anybody there?")); err != nil {
		t.Fatal(err)
	}
}
