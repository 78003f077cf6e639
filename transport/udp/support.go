package udp

// Support says what this host's kernel can do: nil, or why not.
type Support struct {
	GSO, GRO error
}
