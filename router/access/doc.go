// Package access keeps the list of clients that may use a gateway: a text file,
// much like SSH's authorized_keys, with one client a line.
//
//	# who              name       # anything
//	9qAx…3kF           anna-phone # the new one
//	4mZt…Q8h           build-7
//
// The identity is the client's Ed25519 public key in base58. The name is one word
// for people to know the client by, the comment is for them as well; either may be
// missing. Blank lines and lines that begin with # mean nothing.
//
//	list, err := access.Load(path)
//	if list.Contains(client) { … }
//
//	err = access.Add(path, access.Entry{Identity: key, Name: "anna-phone"})
//	gone, err := access.Remove(path, "anna-phone")
//
//	access.Watch(ctx, path, time.Second, current.Store, report)
//
// The file is taken whole or not at all. A line that cannot be read may be the one
// that somebody relies on, so it makes the file refused, with an error that names
// file and line; a gateway that watches goes on with the list that it has.
//
// A List never changes and may be read by any number of goroutines.
package access
