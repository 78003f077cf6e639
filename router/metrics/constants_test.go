package metrics

import (
	"fmt"
	"math/bits"
	"os"
	"strings"
	"testing"
	"time"

	"lewes/router"
	"lewes/router/egress"
	"lewes/router/registrar"
	"lewes/router/wireguard"
	"lewes/state"
	"lewes/transport/tcp"
)

// TestConstantsInREADME compares the table of constants in deploy/README.md with the code and with the
// exported metrics.
func TestConstantsInREADME(t *testing.T) {
	seconds := func(d time.Duration) string { return fmt.Sprintf("%g s", d.Seconds()) }
	mebibytes := func(n int) string { return fmt.Sprintf("%d MiB", n>>20) }
	want := map[string]string{
		"offset of a client's clock":                                       seconds(router.DefaultTolerance),
		"hellos per second from the address of a gateway in the directory": fmt.Sprint(router.DefaultTrustedRate),
		"queued handshake packets per shard and class of source":           fmt.Sprint(router.DefaultHandshakeQueue),
		"memory of handshakes whose source has proved its address":         mebibytes(router.DefaultHandshakeMemory),
		"memory of other handshakes":                                       mebibytes(router.DefaultHandshakeMemory / 4),
		"packets under one key before a rekey":                             fmt.Sprintf("2^%d", bits.Len64(state.DefaultRekeyPackets)-1),
		"time for which replaced keys still open packets":                  seconds(state.DefaultDemotedTTL),
		"memory of incoming TCP packets":                                   mebibytes(tcp.DefaultMaxReceiving),
		"memory of unread TCP answers":                                     mebibytes(tcp.DefaultMaxUnread),
		"time to receive a packet over TCP":                                seconds(tcp.DefaultReceiveTimeout),
		"time to send an answer over TCP":                                  seconds(tcp.DefaultWriteTimeout),
		"wait of a TCP poll":                                               seconds(router.DefaultPollWait),
		"data queued for one session on TCP":                               fmt.Sprintf("%d KiB", router.DefaultSessionQueue>>10),
		"data queued for all sessions on TCP":                              mebibytes(router.DefaultSessionQueues),
		"age of data queued for a session on TCP":                          seconds(router.DefaultSessionQueueTime),
		"time for a name lookup":                                           seconds(router.LookupTimeout),
		"concurrent name lookups":                                          fmt.Sprint(router.DefaultLookups),
		"datagrams buffered per flow during its lookup":                    fmt.Sprint(router.DefaultLookupDatagrams),
		"time for which a local port is not used again towards its target": seconds(egress.Quarantine),
		"pairs of local port and target that are not used again yet":       fmt.Sprint(egress.MaxPairs),
		"idle time of a flow to port 53 that was answered":                 seconds(router.AnsweredIdle),
		"idle time of an index binding":                                    seconds(router.IndexBindingTTL),
		"hellos per second of an account to other gateways":                fmt.Sprint(router.DefaultHelloRate),
		"burst of hellos of an account to other gateways":                  fmt.Sprint(router.DefaultHelloBurst),
		"receiver indexes bound at other gateways":                         fmt.Sprint(router.MaxBindings),
		"share of a shard's time for one session's expensive requests":     fmt.Sprintf("%d %%", 100/router.SessionShare),
		"share of a shard's time for one account's expensive requests":     fmt.Sprintf("%d %%", 100/router.AccountShare),
		"WireGuard peers":                                                  fmt.Sprint(wireguard.MaxPeers),
		"Registers under way":                                              fmt.Sprint(registrar.MaxQueue),
		"Registers under way of one client":                                fmt.Sprint(registrar.MaxClient),
		"offset of the timestamp of a Register":                            seconds(registrar.Tolerance),
		"time until a required registration":                               seconds(router.RegistrationTime),
		"share of the sessions for those without a required registration":  fmt.Sprintf("%d %%", 100/router.UnregisteredShare),
	}
	exported := exportedSeries(t)
	text, err := os.ReadFile("../../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## Constants\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, table, found := strings.Cut(section, "| --- | --- | --- |\n")
	if !found {
		t.Fatal("deploy/README.md has no table of constants")
	}
	for row := range strings.Lines(strings.TrimSpace(table)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
		if len(cells) != 3 {
			t.Errorf("row %q has %d cells, want 3", row, len(cells))
			continue
		}
		bound, value := strings.TrimSpace(cells[0]), strings.TrimSpace(cells[1])
		if v, known := want[bound]; !known || v != value {
			t.Errorf("%s is %q in the table and %q in the code", bound, value, v)
		}
		delete(want, bound)
		if metric := strings.Trim(cells[2], " `"); !exported[metric] {
			t.Errorf("%s: metric %s is not exported", bound, metric)
		}
	}
	for bound := range want {
		t.Errorf("%s is not in the table", bound)
	}
}

// exportedSeries returns the names of all metrics, without labels and with each single label.
func exportedSeries(t *testing.T) map[string]bool {
	t.Helper()
	exported := make(map[string]bool)
	for _, f := range gather(t, New(newNumbered(), testBuild, others...)) {
		exported[f.GetName()] = true
		for _, m := range f.Metric {
			for _, l := range m.Label {
				exported[fmt.Sprintf("%s{%s=%q}", f.GetName(), l.GetName(), l.GetValue())] = true
			}
		}
	}
	return exported
}
