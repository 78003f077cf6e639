package router

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestPinKeepsToOneProcessor(t *testing.T) {
	for shard := range 5 { // more shards than processors
		done := make(chan int)
		go func() { // ends with its thread locked, so that the thread ends too
			if err := pin(shard); err != nil {
				t.Errorf("shard %d: %v", shard, err)
			}
			var set unix.CPUSet
			if err := unix.SchedGetaffinity(0, &set); err != nil {
				t.Error(err)
			}
			done <- set.Count()
		}()
		if n := <-done; n != 1 {
			t.Errorf("shard %d may use %d processors, want 1", shard, n)
		}
	}
}

func TestPinnedGatewayWorks(t *testing.T) {
	g, target := started(t, func(c *Config) { c.Pin, c.Shards = true, 5 })
	l := dialLive(t, 2, loopback(g))
	l.connect()
	l.echo(target, "pinned")
}
