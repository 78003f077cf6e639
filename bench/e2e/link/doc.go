// Package link is a network that misbehaves: it joins two machines of package netns and
// carries IP packets between them, in this process, as badly as it is told. What it
// does not carry, it drops without a word, as the worst of networks do; it counts all
// that it does.
//
//	l, err := link.Join(ctx, link.End{Machine: client, Addrs: …}, link.End{Machine: gateway, Addrs: …}, seed)
//	defer l.Close()
//	l.Both(link.Faults{Loss: 0.3, Delay: 100 * time.Millisecond})
//	l.Set(link.A, link.Faults{Block: []link.Match{{Protocol: link.UDP}}})
//	l.Both(link.Faults{Down: true})
//
// Each end is a TUN device. The kernels on both sides see a plain device without
// offloads: what they send has its checksums, what they receive they check. So a bit
// that the link turns is dropped by the kernel's checksum, and with Faults.Repair, which
// corrects the checksum, reaches the program.
//
// A link can be a NAT as well (Translate): the machine at end A is then known at B by
// another address and port, until Rebind makes it forget.
//
// What chance decides comes from the seed, for each direction in the order of its
// packets: the same packets meet the same fate again.
package link
