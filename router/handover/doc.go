// Package handover carries a gateway's state and sockets from one process to the next, on one machine.
//
// A Conn is one end of a Unix socket pair that carries frames:
//
//	length u32 · kind u8 · descriptors u8 · payload      (little-endian)
//
// Descriptors travel beside the frame (SCM_RIGHTS). Either end aborts the handover by closing; until
// Commit the predecessor then continues as before:
//
//	predecessor                                       successor
//	   Hello, Sockets…      identity, addresses, listening sockets
//	------------------------------------------------------->
//	                        Ready, or Refused with a reason
//	<-------------------------------------------------------
//	   Sockets…             of flows, while the gateway serves; an empty one ends a round
//	------------------------------------------------------->
//	                        Ready, for each empty one
//	<-------------------------------------------------------
//	   [pauses]  Sockets… Keys Ports… Shard… Sessions… End
//	------------------------------------------------------->
//	                        Loaded, or Refused
//	<-------------------------------------------------------
//	   Commit               the successor owns everything from here on
//	------------------------------------------------------->
//	                        Serving
//	<-------------------------------------------------------
//
// Hello is defined here, package router defines the other payloads. A payload holds secrets: its
// receiver wipes it.
package handover
