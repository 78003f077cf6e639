package udp

import "lewes/transport"

// Handler takes what a Poller receives, in the goroutine that runs it.
type Handler interface {
	// Received is given what came on the socket that user stands for. Data is good, for
	// reading and writing, until it returns.
	Received(user any, batch []transport.Packet)
	// Failed is told of what the system reported on the socket, such as a peer that
	// refuses what was sent to it (transport.ErrRefused). The socket goes on.
	Failed(user any, err error)
	// Done is called when everything that was ready has been taken, before the Poller
	// waits again.
	Done()
}
