//go:build race

package client_test

// The race detector makes sync.Pool forget at random.
const raceDetector = true
