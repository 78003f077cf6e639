package policy

// MaxCachedRoutes is the bound of half of the cache.
const MaxCachedRoutes = maxCachedRoutes

// CachedRoutes returns the number of cached routes.
func (p *Policy) CachedRoutes() int { return len(p.cache.recent) + len(p.cache.old) }
