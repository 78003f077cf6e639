package udp

// Steer spreads sessions over shards by their receiver_idx: the kernel by the BPF
// program that Listen attaches to its sockets, everything else by Shard, and the two
// agree. It hides from a peer, who chooses indexes, which of them meet in one
// shard.
type Steer struct {
	// Secret is random. Its lowest bit counts as set: an odd factor keeps every
	// bit of the index.
	Secret uint32
	// Shards is how many there are. Below 2 everything is in shard 0.
	Shards int
}

// Shard returns the shard of a receiver index: (index * secret) >> 16 modulo
// Shards, in 32 bits. Index 0, which no session has, is in shard 0, and so is a
// packet too short to have one.
func (s Steer) Shard(index uint32) int {
	if s.Shards < 2 {
		return 0
	}
	return int(index * (s.Secret | 1) >> 16 % uint32(s.Shards))
}
