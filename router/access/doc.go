// Package access keeps the list of clients that may use a gateway, in a text file
// similar to SSH's authorized_keys with one client per line.
//
//	# identity         name        limits                  # comment
//	9qAx…3kF           anna-phone  sessions=2 rate=10MiB   # the new one
//	4mZt…Q8h           build-7
//
// The identity is the client's Ed25519 public key in base58. Everything else is optional. The name,
// one word, and the comment are for the operator. Limits bound all sessions of the client together:
//
//	sessions=N         sessions at a time
//	flows=N            flows at a time
//	rate=SIZE          payload bytes per second, of both directions together, such as 500KiB or 10MiB
//	bytes=SIZE/PERIOD  payload bytes in each period of days or hours, such as 10GiB/30d, where clients register
//	expires=DATE       last day in UTC on which the client is admitted, such as 2027-01-31
//
// Blank lines and lines that begin with # are ignored. A byte order mark and lines that end in CR LF
// are accepted.
//
//	list, err := access.Load(path)
//	if limits, found := list.Find(client); found { … }
//
//	err = access.Add(path, access.Entry{Identity: key, Name: "anna-phone"})
//	removed, err := access.Remove(path, "anna-phone")
//
//	access.Watch(ctx, list, time.Second, current.Store, report)
//
// An invalid line admits no client. When a gateway starts, the other lines count. When the file
// changes later and has an invalid line, the gateway keeps its list as a whole, because the line may
// be an important one.
//
// A List is immutable and safe for concurrent use.
package access
