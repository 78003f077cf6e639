// Package pace sends at a set rate, in small bursts, and never in a large one to make
// up for lost time: a sender that was kept off the processor sends less, and
// says so, instead of flooding whoever is measured.
//
//	result, err := pace.Run(ctx, pace.Plan{Rate: 500_000, For: time.Second, Unit: 52}, sender.send)
package pace
