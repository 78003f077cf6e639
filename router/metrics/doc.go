// Package metrics exports a gateway's counters to Prometheus.
//
// No label identifies a client, neither by identity nor by address or index, so the number of series
// does not grow with the number of users.
package metrics
