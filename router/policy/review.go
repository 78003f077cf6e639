package policy

import "fmt"

// Finding is a rule without an effect.
type Finding struct {
	Allow  bool // it is in Config.Allow, otherwise in Config.Deny
	Index  int  // in that list
	Reason string
}

// Review finds rules that contradict others or are redundant. What it finds is certain; a rule whose
// effect depends on the gateway's own addresses, or on several other rules together, is not found.
func Review(c *Config) (found []Finding) {
	for i := range c.Allow {
		if reason := c.reviewAllow(i); reason != "" {
			found = append(found, Finding{true, i, reason})
		}
	}
	for i := range c.Deny {
		if reason := c.reviewDeny(i); reason != "" {
			found = append(found, Finding{false, i, reason})
		}
	}
	return found
}

func (c *Config) reviewAllow(i int) (reason string) {
	r := &c.Allow[i]
	for j := range c.Deny {
		if d := &c.Deny[j]; d.covers(r) {
			reason = fmt.Sprintf("the allow rule %q contradicts the deny rule %q, which has precedence and denies all that it would allow; remove one of them", r, d)
			if !c.DenyByDefault && !d.Prefix.IsValid() {
				reason += `; to deny all targets but those in allow, set default to "deny"`
			}
			return reason
		}
	}
	for j := range c.Allow {
		if o := &c.Allow[j]; j != i && o.opens(r) && !(i < j && r.opens(o)) {
			return fmt.Sprintf("the allow rule %q is redundant: %q allows the same targets already", r, o)
		}
	}
	return ""
}

func (c *Config) reviewDeny(i int) (reason string) {
	r := &c.Deny[i]
	for j := range c.Deny {
		if o := &c.Deny[j]; j != i && o.covers(r) && !(i < j && r.covers(o)) {
			return fmt.Sprintf("the deny rule %q is redundant: %q denies the same targets already", r, o)
		}
	}
	if c.deniedAnyway(r) {
		return fmt.Sprintf("the deny rule %q is redundant: no allow rule allows a target in it, and without one these are denied by default", r)
	}
	return ""
}

// deniedAnyway reports whether the targets of a deny rule are denied without it.
func (c *Config) deniedAnyway(r *Rule) bool {
	if !c.DenyByDefault && !insideAny(r, nonPublic4) && !insideAny(r, nonPublic6) {
		return false
	}
	for i := range c.Allow {
		a := &c.Allow[i]
		if a.overlaps(r) {
			return false
		}
		// A rule inside an embedding allows addresses that lead to others, which the deny rule may match.
		for j := range embeddings {
			if a.inside(embeddings[j].prefix) {
				return false
			}
		}
	}
	return true
}

func insideAny(r *Rule, ranges []nonPublic) bool {
	for i := range ranges {
		if r.inside(ranges[i].prefix) {
			return true
		}
	}
	return false
}

// ports returns the first and last port.
func (r *Rule) ports() (first, last uint16) {
	if r.everyPort() {
		return 1, 65535
	}
	return r.First, r.Last
}

// covers reports whether r matches every target that o matches.
func (r *Rule) covers(o *Rule) bool {
	first, last := r.ports()
	oFirst, oLast := o.ports()
	return first <= oFirst && oLast <= last && (!r.Prefix.IsValid() || o.inside(r.Prefix))
}

// overlaps reports whether a target matches both rules.
func (r *Rule) overlaps(o *Rule) bool {
	first, last := r.ports()
	oFirst, oLast := o.ports()
	return first <= oLast && oFirst <= last && (!r.Prefix.IsValid() || !o.Prefix.IsValid() || r.Prefix.Overlaps(o.Prefix))
}

// opens reports whether r as an allow rule allows every target that o allows: it also lies inside each
// range that o lies inside, of which one address can be the gateway's own.
func (r *Rule) opens(o *Rule) bool {
	if !r.covers(o) || o.Prefix.IsSingleIP() && r.Prefix != o.Prefix {
		return false
	}
	for _, list := range [][]nonPublic{nonPublic4, nonPublic6} {
		for i := range list {
			if o.inside(list[i].prefix) && !r.inside(list[i].prefix) {
				return false
			}
		}
	}
	for i := range embeddings {
		if o.inside(embeddings[i].prefix) && !r.inside(embeddings[i].prefix) {
			return false
		}
	}
	return true
}
