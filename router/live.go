package router

import "time"

// Limits are the bounds that a gateway takes up while it serves.
type Limits struct {
	MaxSessions int

	MaxFlowsPerSession, MaxFlows int
	FlowIdle, ResolveTimeout     time.Duration
	MaxWaiting, MaxLookups       int

	MaxClaims  int
	ClaimTTL   time.Duration
	HelloRate  float64
	HelloBurst int
}

// Limits returns those of a configuration.
func (c *Config) Limits() Limits {
	return Limits{
		c.MaxSessions, c.MaxFlowsPerSession, c.MaxFlows, c.FlowIdle, c.ResolveTimeout, c.MaxWaiting, c.MaxLookups,
		c.MaxClaims, c.ClaimTTL, c.HelloRate, c.HelloBurst,
	}
}

func (c *Config) setLimits(l *Limits) {
	c.MaxSessions, c.MaxFlowsPerSession, c.MaxFlows, c.FlowIdle = l.MaxSessions, l.MaxFlowsPerSession, l.MaxFlows, l.FlowIdle
	c.ResolveTimeout, c.MaxWaiting, c.MaxLookups = l.ResolveTimeout, l.MaxWaiting, l.MaxLookups
	c.MaxClaims, c.ClaimTTL, c.HelloRate, c.HelloBurst = l.MaxClaims, l.ClaimTTL, l.HelloRate, l.HelloBurst
}

// SetLimits changes the gateway's bounds. What is there already beyond a lower one
// stays until it ends by itself.
func (g *Gateway) SetLimits(l Limits) {
	for _, s := range g.shards { // a configuration that all shards read is changed between their turns
		s.mu.Lock()
	}
	g.config.setLimits(&l)
	for _, s := range g.shards {
		s.mu.Unlock()
	}
}

// Recheck closes the flows to targets that the egress policy does not allow any more,
// and tells their clients; the owner calls it when the policy has changed. It returns
// their number.
func (g *Gateway) Recheck() (closed int) {
	for _, s := range g.shards {
		s.Turn(func(time.Time) { closed += s.turnRecheck() })
	}
	return closed
}
