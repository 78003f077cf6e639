// Package measure has what every figure of a bench is made with: a clock that all
// processes of a machine share, what a process has used, the distribution of delays, medians
// with their spread, and the search for the highest rate that a system holds.
//
// The cost of a relay is the CPU time of its process, user and system, over what came
// out of it: that holds steady on a noisy machine where rates do not.
//
//	before := measure.Self()
//	relayed := relay()
//	used := measure.Self().Since(before)
//	fmt.Println(used.CPU() / time.Duration(relayed))
package measure
