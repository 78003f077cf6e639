package wireguard

// Stats are the counters and gauges of a Device. The tags are those of router.Stats.
type Stats struct {
	Up        uint64 `metric:"wireguard_up" kind:"gauge" help:"Whether the WireGuard device can be used."`
	Failures  uint64 `metric:"wireguard_failures_total" help:"Failed attempts to read or change the WireGuard device."`
	Peers     uint64 `metric:"wireguard_peers" kind:"gauge" help:"WireGuard peers of accounts."`
	Foreign   uint64 `metric:"wireguard_foreign_prefixes" kind:"gauge" help:"Prefixes of peers of others inside the pool, which are not handed out."`
	Resting   uint64 `metric:"wireguard_resting_addresses" kind:"gauge" help:"Released addresses that are not handed out yet."`
	Exhausted uint64 `metric:"wireguard_pool_exhausted_total" help:"Peers refused because no address was free."`
	Bytes     uint64 `metric:"wireguard_bytes_total" help:"Bytes that peers of accounts sent and received."`
}

// Stats returns the counters and gauges.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}
