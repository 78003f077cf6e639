// Package ratelimit limits how often a source may ask for work, in memory that no
// flood of sources can make grow (sections 4 and 12 of PROTOCOL.md).
//
// A Table holds a fixed number of token buckets; a source's prefix (/32 of IPv4,
// /64 of IPv6) chooses one by a seeded hash. Sources that share a bucket share
// its budget, and nobody outside can tell which do.
package ratelimit
