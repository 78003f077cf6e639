package control

// hasGroup is true: files have no group here.
func hasGroup(string, int) bool { return true }
