package report

// What ratios are called.
const (
	toSame       = "the loop with the same AEAD"
	toPlain      = "the plain loop"
	toOperations = "its public-key operations"
)

// Compare works out every row's ratios: to the loops and the operations of its own group, and to the peers
// of its group. Where its group has none, those of bulk-out are taken, if that ran and sent
// payloads of the same size.
func (r *Report) Compare() {
	elsewhere := make(map[int][]*Row) // by size of payload
	for _, g := range r.Find(scenarioBulk) {
		elsewhere[g.Payload] = append(elsewhere[g.Payload], g.peers()...)
	}
	for i := range r.Groups {
		g := &r.Groups[i]
		peers := g.peers()
		if len(peers) == 0 && g.Unit == "datagram" {
			peers = elsewhere[g.Payload]
		}
		for j := range g.Rows {
			g.compare(&g.Rows[j], peers)
		}
	}
}

func (g *Group) peers() (peers []*Row) {
	for i := range g.Rows {
		if g.Rows[i].Kind == Peer {
			peers = append(peers, &g.Rows[i])
		}
	}
	return peers
}

func (g *Group) compare(row *Row, peers []*Row) {
	row.Ratios = nil
	if row.Kind == Peer || row.Kind == Direct || row.Kind == Operations {
		return
	}
	row.ratio(toSame, g.sameLoop(row))
	row.ratio(toPlain, g.Row(Loop, ""))
	row.ratio(toOperations, g.operations(row))
	for _, p := range peers {
		row.ratio(p.Subject, p)
	}
}

// sameLoop returns the loop with the AEAD of a row.
func (g *Group) sameLoop(row *Row) *Row {
	if row.AEAD == "" {
		return nil
	}
	return g.Row(Loop, row.AEAD)
}

func (g *Group) operations(row *Row) *Row {
	if row.Kind != Gateway {
		return nil
	}
	return g.Row(Operations, row.AEAD)
}

func (row *Row) ratio(name string, to *Row) {
	if to == nil || to == row || !row.CPU.Measured() || !to.CPU.Measured() || to.CPU.Median <= 0 {
		return
	}
	row.Ratios = append(row.Ratios, Ratio{To: name, Value: row.CPU.Median / to.CPU.Median})
}

// Ratio returns a row's ratio to another, or false.
func (row *Row) Ratio(to string) (float64, bool) {
	for _, r := range row.Ratios {
		if r.To == to {
			return r.Value, true
		}
	}
	return 0, false
}

// ToLoop is the ratio to the loop with the same AEAD.
func (row *Row) ToLoop() (float64, bool) { return row.Ratio(toSame) }

// ToOperations is the ratio to the public-key operations alone.
func (row *Row) ToOperations() (float64, bool) { return row.Ratio(toOperations) }
