// Package scenario runs a bench: it starts the processes, measures the subjects in turn, and
// returns a report.
//
// A topology is a load, a subject and a sink, each a process. A run sends at a rate for some time
// and counts the datagrams that arrive. A comparison searches for the highest rate of each
// topology, then measures all of them at one rate that the slowest sustains, in turn. A subject
// that cannot run is left out and listed with the reason.
//
// Everything happens on loopback or between two network namespaces. The processes and namespaces
// end with the bench.
package scenario
