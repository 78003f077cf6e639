package registrar

import (
	"context"
	"slices"
	"time"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/state/ledger"
	"lewes/state/wire"
)

// unlimited reports whether nothing of the client is counted.
func (a *attempt) unlimited() bool {
	return a.config.Access == Open || a.config.Access == Listed && a.limits.Bytes == 0
}

// checkAllowance is step 5 for a listed client: it has its bandwidth of the period, or gets it.
func (a *attempt) checkAllowance() error {
	if a.limits.Bytes == 0 {
		return nil
	}
	a.grant = allowance(&a.limits, a.account.Grants, a.now)
	switch left, _ := a.left(&a.account); {
	case a.grant != nil && a.m.Mode == wire.ModeBalance: // which changes nothing
		a.account.Grants, a.grant = []ledger.Grant{*a.grant}, nil
	case a.grant == nil && left == 0:
		return refuse(wire.CodeBandwidthUsedUp, "the bandwidth of this period is used up")
	}
	return nil
}

// allowance returns the grant of a listed client for a period that begins now, or for the present one if the list
// allows another amount since; nil if it has it.
func allowance(limits *account.Limits, grants []ledger.Grant, now time.Time) *ledger.Grant {
	g := &ledger.Grant{Bytes: limits.Bytes, Expires: now.Add(limits.Period), Source: ledger.SourceListed}
	i := slices.IndexFunc(grants, func(g ledger.Grant) bool { return g.Source == ledger.SourceListed && now.Before(g.Expires) })
	switch {
	case i < 0:
		return g
	case grants[i].Bytes == limits.Bytes:
		return nil
	}
	g.Expires, g.Used = grants[i].Expires, min(grants[i].Used, limits.Bytes)
	return g
}

// Renew gives a listed client the bandwidth of its next period once the last has ended, and returns its grants;
// found is false if it is not due any.
func (r *Registrar) Renew(ctx context.Context, client identity.PublicKey) (grants []ledger.Grant, found bool, err error) {
	if r.config.Access != Listed {
		return nil, false, nil
	}
	now, standing := r.config.Now(), r.config.Standing(client)
	if !standing.Listed || standing.Limits.Bytes == 0 || standing.Limits.Expired(now) {
		return nil, false, nil
	}
	unlock, err := r.locks.lock(ctx, lockKey{key: client})
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	l := r.ledger.Load().Ledger
	if l == nil {
		return nil, false, nil
	}
	account, _, err := l.Account(client)
	if err != nil {
		return nil, false, err
	}
	grant := allowance(&standing.Limits, account.Grants, now)
	if grant == nil {
		return nil, false, nil
	}
	receipt, err := l.Commit(ctx, ledger.Entry{Account: client, Grant: grant, Now: now})
	return receipt.Account.Grants, err == nil, err
}
