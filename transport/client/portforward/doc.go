// Package portforward forwards local UDP ports through a session.
//
//		f, err := portforward.Listen(ctx, mappings, logger)
//		if err != nil {
//			return err
//		}
//		defer f.Close()
//		return f.Run(ctx, session)
//
//	  - portforward.go: [Forwarder], its ports and their peers
//	  - failures.go: the log of failures, at most one line a minute for each kind
package portforward
