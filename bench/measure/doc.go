// Package measure has the instruments of the bench: a clock that all processes of a machine
// share, the CPU time and memory of a process, a histogram of delays, a pacer that sends at a set
// rate, the header of a datagram, and the search for the highest rate without loss.
//
// The cost of a relay is the CPU time of its process divided by the number of datagrams that
// arrived. It is stable on a busy machine, where rates are not.
package measure
