// Package link is a faulty network: it joins two machines of package netns and carries IP packets
// between them in user space, with losses, delays, reordering, corruption, a smaller MTU, filters
// and a NAT. It drops packets silently and counts everything.
//
//	l, err := link.Join(ctx, link.End{Machine: client, Addrs: …}, link.End{Machine: gateway, Addrs: …}, seed)
//	defer l.Close()
//	l.Both(link.Faults{Loss: 0.3, Delay: 100 * time.Millisecond})
//	l.Set(link.A, link.Faults{Block: []link.Match{{Protocol: link.UDP}}})
//	l.Both(link.Faults{Down: true})
//
// Each end is a TUN device without offloads, so the kernels on both sides compute and verify
// checksums: a bit flipped by the link is dropped by the kernel's checksum, and reaches the program
// with Faults.Repair, which corrects the checksum.
//
// Random decisions come from the seed, for each direction in the order of its packets, so the same
// packets meet the same faults again.
package link
