package main

// wishes returns nothing: this system has no signals for it.
func wishes() (asked wished, stop func()) { return wished{}, func() {} }
