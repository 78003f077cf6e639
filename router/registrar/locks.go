package registrar

import (
	"context"
	"sync"
)

// keyedLocks has a lock for every key in use. Its zero value is ready to use.
type keyedLocks struct {
	mu    sync.Mutex
	locks map[lockKey]*keyedLock // guarded by mu
}

// lockKey is an account, or a WireGuard key, which is locked after its account.
type lockKey struct {
	wireGuard bool
	key       [32]byte
}

type keyedLock struct {
	users int           // guarded by keyedLocks.mu
	held  chan struct{} // full while the lock is held
}

// lock locks a key, and returns the function that unlocks it, unless ctx ends first.
func (l *keyedLocks) lock(ctx context.Context, k lockKey) (unlock func(), err error) {
	l.mu.Lock()
	one := l.locks[k]
	if one == nil {
		if l.locks == nil {
			l.locks = make(map[lockKey]*keyedLock)
		}
		one = &keyedLock{held: make(chan struct{}, 1)}
		l.locks[k] = one
	}
	one.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(l.locks, k)
		}
	}
	select {
	case one.held <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
	return func() {
		<-one.held
		leave()
	}, nil
}
