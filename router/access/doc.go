// Package access keeps the list of clients that may use a gateway, in a text file
// similar to SSH's authorized_keys with one client per line.
//
//	# identity         name       # comment
//	9qAx…3kF           anna-phone # the new one
//	4mZt…Q8h           build-7
//
// The identity is the client's Ed25519 public key in base58. The name, one word, and the comment
// are for the operator and optional. Blank lines and lines that begin with # are ignored.
//
//	list, err := access.Load(path)
//	if list.Contains(client) { … }
//
//	err = access.Add(path, access.Entry{Identity: key, Name: "anna-phone"})
//	removed, err := access.Remove(path, "anna-phone")
//
//	access.Watch(ctx, path, time.Second, current.Store, report)
//
// A file with an invalid line is rejected as a whole, with an error that contains file and line,
// because the line may be an important one. A gateway that watches the file keeps its current list.
//
// A List is immutable and safe for concurrent use.
package access
