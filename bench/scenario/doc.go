// Package scenario runs a bench: it starts the processes, lets what is compared take turns,
// and hands a report back.
//
// A rig is a load, a subject and a sink, each a process. A trial sends at a rate for a time
// and tells what came of it. A contest runs rigs against each other: it searches the
// highest rate that each holds, then measures all of them at one rate that the slowest
// holds, turn by turn. What cannot run is left out of the contest and listed with the
// reason; the rest goes on.
//
// Everything happens on loopback or between two network namespaces that exist as long as the
// processes in them. When the bench ends, however it ends, its processes do.
package scenario
