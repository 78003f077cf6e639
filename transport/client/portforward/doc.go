// Package portforward forwards local UDP ports through a session: portforward.go holds the [Forwarder],
// its ports and their peers, failures.go the log of failures, at most one line a minute for each kind.
//
//	f, err := portforward.Listen(ctx, mappings, logger)
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//	return f.Run(ctx, session)
package portforward
