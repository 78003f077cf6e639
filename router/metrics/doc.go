// Package metrics shows a gateway's figures to Prometheus.
//
// No label names a client: neither an identity nor an address nor an index, so
// that the number of series does not grow with the number of users.
package metrics
