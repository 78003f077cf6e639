// Package handover carries a gateway's state and its sockets from one process to the
// next, on one machine.
//
// A Conn is one end of a Unix socket pair. What passes are frames:
//
//	length u32 · kind u8 · descriptors u8 · payload      (little-endian)
//
// with the descriptors beside them (SCM_RIGHTS). The two ends hold this conversation;
// either breaks it off by closing, and until Commit the predecessor then goes on as if
// nothing had been:
//
//	predecessor                                       successor
//	   Hello, Sockets…      what it is, its listening sockets
//	------------------------------------------------------->
//	                        Ready, or Refused with a reason
//	<-------------------------------------------------------
//	   Sockets…             those of flows, while all goes on; one without any at the end
//	------------------------------------------------------->
//	                        Ready again, as often as such a one came
//	<-------------------------------------------------------
//	   [pauses]  Sockets… Keys Shard… Sessions… End
//	------------------------------------------------------->
//	                        Loaded, or Refused
//	<-------------------------------------------------------
//	   Commit               from here on all is the successor's
//	------------------------------------------------------->
//	                        Serving
//	<-------------------------------------------------------
//
// What frames mean is package router's. A payload holds secrets: whoever received it
// wipes it.
package handover
