//go:build race

package tcp

// The race detector makes everything larger, and its sync.Pool forgets at random.
const raceDetector = true
