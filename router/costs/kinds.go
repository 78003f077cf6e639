package costs

import (
	"time"

	"lewes/transport"
)

// Sender is who can send a kind of packet.
type Sender string

// The senders.
const (
	Stranger Sender = "stranger" // anyone who knows the gateway's identity
	Client   Sender = "client"   // one with a session
	Entry    Sender = "entry"    // a gateway of the directory
)

// Cheap is the cost up to which a kind of packet needs no bound.
const Cheap = 5 * time.Microsecond

// Kind is a kind of packet: one entry of the table of costs.
type Kind struct {
	Name string
	From Sender
	// Bound is the row of section 12 of PROTOCOL.md that covers the cost; "" for none.
	Bound string
	// Counter is the metric, with its label, that counts the packets for which the cost arose; "" if
	// none does.
	Counter string

	start func(*Env) maker
}

// String returns the sender and the name.
func (k *Kind) String() string { return string(k.From) + ": " + k.Name }

// Find returns the kind with a name, or nil.
func Find(name string) *Kind {
	for i := range Kinds {
		if Kinds[i].Name == name {
			return &Kinds[i]
		}
	}
	return nil
}

// maker returns the next packet of a kind, or ok false if the gateway refuses what has to come
// before it.
type maker func() (p transport.Packet, ok bool)

// Start prepares the senders and returns a function that makes the next packet of the kind. It
// returns false if the gateway refuses what has to come before the packet.
func (k *Kind) Start(e *Env) func() (transport.Packet, bool) { return k.start(e) }

// Baseline is the name of the kind that the others are compared with.
const Baseline = "data"

// Rows of section 12 of PROTOCOL.md.
const (
	newHellos     = "new ClientHellos without a cookie"
	provedHellos  = "new ClientHellos with a valid cookie"
	trustedHellos = "new ClientHellos of a gateway in the directory"
	tries         = "Handshake 1 tries"
	handshakeTime = "time of a shard for handshakes and requests while datagrams arrive"
	keptParts     = "incomplete parts"
	joins         = "joins of parts, beyond one for each part"
	earlyPackets  = "early transport packets"
	sessions      = "sessions"
	flows         = "flows"
	requests      = "time of a shard for flows to open, names, rekeys and Registers"
	claims        = "claims"
	innerHellos   = "inner ClientHellos"
	polls         = "wait of a Poll"
)

// Kinds is the table of costs.
var Kinds = []Kind{
	{"junk", Stranger, "", "dropped_packets_total{reason=malformed}", junk},
	{"wrong MAC1", Stranger, "", "dropped_packets_total{reason=forged}", wrongMAC1},
	{"hello of another version", Stranger, "", "", otherVersion},
	{"hello", Stranger, newHellos, "handshakes_total{step=hello}", newHello},
	{"hello, repeated", Stranger, handshakeTime, "handshakes_total{step=repeated}", repeatedHello},
	{"hello beyond the budget", Stranger, handshakeTime, "handshakes_total{step=cookie}", busyHello},
	{"hello with a cookie", Stranger, provedHellos, "handshakes_total{step=hello}", cookieHello},
	{"hello that doubts a session", Stranger, handshakeTime, "handshakes_total{step=held}", doubtingHello},
	{"hello over TCP", Stranger, provedHellos, "handshakes_total{step=hello}", tcpHello},
	{"KKT request", Stranger, newHellos, "handshakes_total{step=kem_key}", kktRequest(false)},
	{"KKT request, repeated", Stranger, handshakeTime, "", kktRequest(true)},
	{"part of Handshake 1, of four", Stranger, keptParts, "", looseParts(4)},
	{"part of Handshake 1, of two", Stranger, joins, "handshakes_total{step=failed_join}", looseParts(2)},
	{"Handshake 1 with another ephemeral", Stranger, handshakeTime, "handshakes_total{step=failed}", handshake1(otherEphemeral)},
	{"Handshake 1 that does not open", Stranger, handshakeTime, "handshakes_total{step=failed}", handshake1(wrongTag)},
	{"Handshake 1 with a wrong ciphertext", Stranger, tries, "handshakes_total{step=failed}", handshake1(wrongCiphertext)},
	{"Handshake 1", Stranger, tries, "handshakes_total{step=opened}", goodHandshake1(false)},
	{"Handshake 1, repeated", Stranger, handshakeTime, "", goodHandshake1(true)},
	{"Handshake 3", Stranger, newHellos, "handshakes_total{step=established}", handshake3(goodHandshake)},
	{"Handshake 3, repeated", Stranger, handshakeTime, "", handshake3(repeatedHandshake)},
	{"Handshake 3, forged", Stranger, handshakeTime, "dropped_packets_total{reason=forged}", handshake3(forgedHandshake)},
	{"data before Handshake 3", Stranger, earlyPackets, "", earlyData},
	{"unknown index", Stranger, "", "dropped_packets_total{reason=unknown_session}", unknownIndex},
	{"forged data", Stranger, "", "dropped_packets_total{reason=forged}", forgedData},
	{"replayed data", Stranger, "", "dropped_packets_total{reason=replayed}", replayedData},

	{"hello from an address of the directory", Entry, trustedHellos, "handshakes_total{step=hello}", trustedHello},

	{Baseline, Client, "", "", data},
	{"data from another address", Client, "", "", roamingData},
	{"data of an unknown flow", Client, "", "flows_refused_total{reason=idle_or_unknown}", unknownFlow},
	{"data to a new target", Client, requests, "flows_opened_total", openFlow},
	{"data to a denied target", Client, "", "flows_refused_total{reason=policy}", deniedFlow},
	{"data beyond the bound of flows", Client, flows, "flows_refused_total{reason=bound}", tooManyFlows},
	{"data to a name", Client, requests, "", lookUp},
	{"FlowClosed", Client, requests, "", closeFlow},
	{"ForwardPacket", Client, "", "forwarded_packets_total{direction=up}", forward},
	{"ForwardPacket with a new index", Client, claims, "", claim},
	{"ForwardPacket to an unknown gateway", Client, "", "flows_refused_total{reason=policy}", unknownGateway},
	{"inner hello", Client, innerHellos, "", innerHello},
	{"part of KK1", Client, requests, "", looseKK1},
	{"KK1 that fails", Client, requests, "rekeys_failed_total", badKK1},
	{"KK1", Client, requests, "rekeys_total", goodKK1},
	{"KK1, repeated", Client, requests, "", repeatedKK1},
	{"SubsessionReady, repeated", Client, "", "", ready},
	{"SubsessionAbort", Client, requests, "", abort},
	{"SubsessionAbort, stale", Client, "", "dropped_packets_total{reason=unexpected}", staleAbort},
	{"Ping", Client, "", "", ping},
	{"Pong", Client, "", "", pong},
	{"Poll", Client, polls, "polls_total", poll},
	{"Register", Client, requests, "registers_total", register},
	{"Register, repeated", Client, requests, "", repeatedRegister},
	{"message of a gateway", Client, "", "dropped_packets_total{reason=unexpected}", misplaced},
	{"Close", Client, sessions, "", closeSession},
}
