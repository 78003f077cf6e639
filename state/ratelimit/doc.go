// Package ratelimit limits the rate of requests per source, in memory that does not
// grow with the number of sources (sections 4 and 12 of PROTOCOL.md).
//
// A Table has a fixed number of token buckets. A keyed hash of the source's prefix (/32 of IPv4, /64
// of IPv6) selects one. Sources that share a bucket share its tokens. Outsiders cannot compute which
// do, and what they observe is of no use once the key is replaced.
//
// A Repeats bounds the reports of an event that repeats.
package ratelimit
