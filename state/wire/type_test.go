package wire

import (
	"fmt"
	"strings"
	"testing"
)

// section2 is the table of section 2: type, name, level, direction. Handshake's
// row says in which direction which level goes, as in section 5; ◇ marks parts.
const section2 = `
0x0000 Busy              clear:G→C
0x0001 Handshake ◇       clear:C→G handshake:C→G handshake:G→C
0x0002 EncryptedData     transport:C→G transport:G→C
0x0003 ClientHello       clear:C→G
0x0004 KKTRequest        clear:C→G
0x0005 KKTResponse ◇     clear:G→C
0x0006 ForwardPacket     transport:C→G transport:G→C
0x0007 Collision         clear:G→C
0x0008 Ack               clear:G→C transport:G→C
0x0009 SubsessionRequest transport:G→C
0x000A SubsessionKK1 ◇   transport:C→G
0x000B SubsessionKK2 ◇   transport:G→C
0x000C SubsessionReady   transport:C→G
0x000D SubsessionAbort   transport:C→G transport:G→C
0x0010 FlowClosed        transport:C→G transport:G→C
0x0011 Register ◇        transport:C→G
0x0012 RegisterResult ◇  transport:G→C
0x0013 Ping              transport:C→G transport:G→C
0x0014 Pong              transport:C→G transport:G→C
0x0015 Close             transport:C→G transport:G→C
0x0016 Reset             clear:G→C
0x0017 Reject            clear:G→C
0x0018 Poll              transport:C→G
`

func TestTypeTable(t *testing.T) {
	rows := make(map[string][]string)
	for line := range strings.Lines(strings.TrimSpace(section2)) {
		f := strings.Fields(line)
		rows[f[0]] = f[1:]
	}
	arrows := map[Direction]string{ToGateway: "C→G", ToClient: "G→C"}
	for i := range 1 << 16 {
		typ := Type(i)
		number := fmt.Sprintf("0x%04X", i)
		row, known := rows[number]
		if typ.Known() != known {
			t.Fatalf("%v: Known is %v", typ, typ.Known())
		}
		parts := known && len(row) > 1 && row[1] == "◇"
		if typ.Parts() != parts || (typ.MaxMessage() > 0) != parts {
			t.Fatalf("%v: Parts is %v", typ, typ.Parts())
		}
		if known && typ.String() != row[0] || !known && typ.String() != "type "+number {
			t.Fatalf("%s is called %q", number, typ)
		}
		for l := range Level(5) {
			for d := range Direction(3) {
				want := known && strings.Contains(strings.Join(row, " ")+" ", " "+l.String()+":"+arrows[d]+" ") && d < 2
				if got := typ.Allowed(l, d); got != want {
					t.Fatalf("%v at level %v %v: %v", typ, l, d, got)
				}
			}
		}
	}
	if TypeHandshake.MaxMessage() != 4096 || TypeSubsessionKK1.MaxMessage() != 4096 || TypeRegister.MaxMessage() != 8192 {
		t.Error("the bounds of whole messages are not those of section 1")
	}
}
