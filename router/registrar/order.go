package registrar

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/router/account"
	"lewes/router/wireguard"
	"lewes/state/ledger"
	"lewes/state/wire"
)

// reached is called with the number of each step after it. Tests replace it to end the process there.
var reached = func(step int) {}

// attempt is one Register on its way through the steps.
type attempt struct {
	*Registrar
	client   identity.PublicKey
	exporter [32]byte
	message  []byte
	now      time.Time
	m        wire.Register
	limits   account.Limits // of a listed client
	ledger   Ledger         // nil: not needed
	unlock   []func()

	account   ledger.Account     // before the commit, then after it
	attach    *ledger.Attachment // to commit; nil: none
	peer      Peer               // of attach, in mode dvpn
	token     *Token             // nil: none is spent
	grant     *ledger.Grant      // to commit; nil: none
	request   [32]byte           // sameness of a Register, without timestamp (section 9)
	committed bool               // an earlier, equal request was
	release   func()             // gives reserved addresses back; nil: there are none, or they are committed
}

// handle carries out a Register: steps 1 to 10, then the answer is step 11.
func (r *Registrar) handle(q *Request) (*wire.RegisterResult, Registration) {
	defer clear(q.Exporter[:])
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a := &attempt{Registrar: r, client: q.Client, exporter: q.Exporter, message: q.Message, now: r.config.Now()}
	defer a.end()
	for i, step := range [...]func(context.Context) error{
		a.parse, a.checkAccess, a.checkProof, a.reserve, a.checkKey, a.checkSpent, a.verify, a.commit, a.setDevice, a.finish,
	} {
		if err := step(ctx); err != nil {
			return a.refused(err), Registration{}
		}
		reached(i + 1)
	}
	return a.result(), Registration{Mode: a.m.Mode, Grants: a.account.Grants, Unlimited: a.unlimited(), Paid: a.token != nil}
}

// end releases what the attempt holds.
func (a *attempt) end() {
	if a.release != nil {
		a.release()
	}
	for _, unlock := range slices.Backward(a.unlock) {
		unlock()
	}
	clear(a.exporter[:])
	clear(a.peer.PSK[:])
}

// refusal is the reason of a result other than CodeOK.
type refusal struct {
	code wire.RegisterCode
	text string // for the client
	err  error  // for the log; may be nil
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return e.err }

func refuse(code wire.RegisterCode, text string) error { return &refusal{code, text, nil} }

// refused returns the result of an error that is no refusal only if the ledger or the time is to blame.
func (a *attempt) refused(err error) *wire.RegisterResult {
	var r *refusal
	switch {
	case errors.As(err, &r):
	case errors.Is(err, context.DeadlineExceeded):
		r = &refusal{wire.CodeBusy, "the gateway is busy: try again", err}
	default:
		r = &refusal{wire.CodeStorageFailed, "the gateway cannot write its accounts", err}
	}
	if r.code == wire.CodeDeviceFailed || r.code == wire.CodeStorageFailed {
		a.config.Logger.Error("a registration failed", zap.Stringer("reason", r.code), zap.Error(r.err))
	}
	result := &wire.RegisterResult{Code: r.code, Error: wire.Detail(r.text), Remaining: wire.Unlimited}
	if r.code == wire.CodeTicketNeeded {
		result.Tickets = a.config.Tickets.Offers(a.now)
	}
	if r.code == wire.CodeDeviceFailed { // the grant stands
		result.Remaining, result.ExpiresAt = a.left(&a.account)
	}
	return result
}

// parse is step 1: the message, its mode and its time.
func (a *attempt) parse(context.Context) (err error) {
	if a.m, err = wire.ParseRegister(a.message); err != nil {
		return refuse(wire.CodeBadRequest, "the Register is malformed")
	}
	if a.m.Mode != wire.ModeBalance && !slices.Contains(a.config.Modes, a.m.Mode) {
		return refuse(wire.CodeModeNotOffered, "this gateway does not offer this mode")
	}
	if age := a.now.Sub(time.Unix(int64(a.m.Timestamp), 0)); age > Tolerance || age < -Tolerance {
		return refuse(wire.CodeClock, "the clocks of client and gateway differ by more than 300 s: set the client's")
	}
	return nil
}

// checkAccess is step 2.
func (a *attempt) checkAccess(context.Context) error {
	if a.config.Access != Listed {
		return nil
	}
	standing := a.config.Standing(a.client)
	if a.limits = standing.Limits; !standing.Listed || a.limits.Expired(a.now) {
		return refuse(wire.CodeNotAllowed, "this identity is not listed")
	}
	return nil
}

// checkProof is step 3: the client has the private key of its WireGuard key. The key is looked up after it,
// so that nobody learns whether it is a customer's.
func (a *attempt) checkProof(ctx context.Context) error {
	if a.m.Mode != wire.ModeDVPN {
		return nil
	}
	proved := false
	if wait := a.compute(ctx, func() { proved = a.config.Device.Proves([32]byte(a.m.WGPublicKey), a.exporter, a.m.WGProof) }); wait != nil {
		return wait
	}
	if !proved {
		return refuse(wire.CodeBadRequest, "wg_proof does not prove this WireGuard key")
	}
	return nil
}

// reserve is step 4: it locks the account, and then the WireGuard key, until the end, reads what stands,
// and reserves addresses in memory.
func (a *attempt) reserve(ctx context.Context) error {
	if a.config.Access == Open && a.m.Mode != wire.ModeDVPN {
		return nil // there is nothing to keep: anyone could fill the ledger with identities
	}
	if err := a.lock(ctx, lockKey{key: a.client}); err != nil {
		return err
	}
	if a.m.Mode == wire.ModeDVPN {
		if err := a.lock(ctx, lockKey{wireGuard: true, key: [32]byte(a.m.WGPublicKey)}); err != nil {
			return err
		}
	}
	state := a.Registrar.ledger.Load()
	switch {
	case state.failed != nil:
		return state.failed
	case state.Ledger == nil:
		return refuse(wire.CodeBusy, "the gateway opens its accounts: try again")
	}
	a.ledger = state.Ledger
	var err error
	if a.account, _, err = a.ledger.Account(a.client); err != nil {
		return err
	}
	switch a.m.Mode {
	case wire.ModeMixnet:
		if s, _ := a.account.Attachment(ledger.Mixnet); s.ClientID != [32]byte(a.m.ClientID) || s.Mode != ledger.Mixnet {
			a.attach = &ledger.Attachment{Mode: ledger.Mixnet, ClientID: [32]byte(a.m.ClientID)}
		}
	case wire.ModeDVPN:
		return a.reserveAddresses()
	}
	return nil
}

// reserveAddresses prepares the attachment of mode dvpn. Its preshared key is this session's.
func (a *attempt) reserveAddresses() (err error) {
	a.peer = Peer{Account: a.client, Key: [32]byte(a.m.WGPublicKey)}
	a.peer.PSK = a.config.Device.PSK(a.peer.Key, a.exporter)
	var standing *Peer
	if s, found := a.account.Attachment(ledger.DVPN); found {
		p := peerOf(a.client, &s)
		standing = &p
	}
	a.peer.IPv4, a.peer.IPv6, a.release, err = a.config.Device.Reserve(a.now, a.client, a.peer.Key, standing)
	switch {
	case errors.Is(err, wireguard.ErrNoAddress):
		return &refusal{wire.CodeNoAddressFree, "no address is free: try again later", err}
	case err != nil:
		return deviceFailed(err)
	}
	a.attach = &ledger.Attachment{
		Mode: ledger.DVPN, WireGuardKey: a.peer.Key, PSK: a.sealer.seal(a.client, &a.peer.Key, &a.peer.PSK), IPv4: a.peer.IPv4, IPv6: a.peer.IPv6,
	}
	return nil
}

func (a *attempt) lock(ctx context.Context, k lockKey) error {
	unlock, err := a.locks.lock(ctx, k)
	if err != nil {
		return err
	}
	a.unlock = append(a.unlock, unlock)
	return nil
}

// checkKey is step 5: whether a ticket is needed, and its key, epoch and floor.
func (a *attempt) checkKey(context.Context) error {
	switch a.config.Access {
	case Listed:
		return a.checkAllowance()
	case Tickets:
		if len(a.m.Credential) > 0 {
			return a.checkTicket()
		}
		if left, _ := a.left(&a.account); left == 0 {
			return refuse(wire.CodeTicketNeeded, "a ticket is needed")
		}
	}
	return nil
}

func (a *attempt) checkTicket() error {
	token, err := a.config.Tickets.Check(a.now, a.m.TicketType, a.m.Credential)
	switch {
	case errors.Is(err, ErrUnknownIssuerKey):
		return refuse(wire.CodeUnknownIssuerKey, "this gateway does not take tickets of this key")
	case errors.Is(err, ErrTicketExpired):
		return refuse(wire.CodeTicketExpired, "the ticket is expired")
	case err != nil:
		return refuse(wire.CodeTicketInvalid, "the ticket is invalid")
	}
	a.token = &token
	a.grant = &ledger.Grant{Bytes: token.Bytes, Expires: a.now.Add(token.Valid), Source: ledger.SourceTicket}
	a.request = kdf.Hash(a.client[:], []byte{byte(a.m.Mode)}, a.m.WGPublicKey, a.m.ClientID, token.KeyID[:], token.Spent[:])
	return nil
}

// checkSpent is step 6: the ticket is unspent, or this same request has spent it, which goes on at step 9.
func (a *attempt) checkSpent(context.Context) error {
	if a.token == nil {
		return nil
	}
	spent, same, err := a.ledger.Spent(a.token.Ticket, a.client, a.request)
	switch {
	case errors.Is(err, ledger.ErrKeyClosed):
		return refuse(wire.CodeTicketExpired, "the ticket is expired")
	case err != nil:
		return err
	case spent && !same:
		return refuse(wire.CodeAlreadySpent, "the ticket is spent")
	case spent:
		a.committed, a.grant = true, nil
		if left, _ := a.left(&a.account); left == 0 {
			return refuse(wire.CodeBandwidthUsedUp, "the bandwidth of this ticket is used up")
		}
	}
	return nil
}

// verify is step 7: the signature of a ticket that is not spent yet.
func (a *attempt) verify(ctx context.Context) (err error) {
	if a.token == nil || a.committed {
		return nil
	}
	if wait := a.compute(ctx, func() { err = a.config.Tickets.Verify(a.token) }); wait != nil {
		return wait
	}
	if err != nil {
		return refuse(wire.CodeTicketInvalid, "the ticket is invalid")
	}
	return nil
}

// compute runs a public-key operation when there is a processor for it.
func (a *attempt) compute(ctx context.Context, f func()) error {
	select {
	case a.cpu <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-a.cpu }()
	f()
	return nil
}

// commit is step 8: one transaction has the spent ticket, the grant, and the attachment as Adding. It is
// not cut off, as its end decides whether the addresses are in use.
func (a *attempt) commit(ctx context.Context) error {
	if a.grant == nil && a.attach == nil {
		return nil
	}
	e := ledger.Entry{Account: a.client, Request: a.request, Grant: a.grant, Attach: a.attach, Now: a.now}
	if a.token != nil && !a.committed {
		e.Ticket = &a.token.Ticket
		e.Result = func(account ledger.Account) []byte { return a.granted(&account).AppendCBOR(nil) }
	}
	receipt, err := a.ledger.Commit(context.WithoutCancel(ctx), e)
	switch {
	case errors.Is(err, ledger.ErrSpent):
		return refuse(wire.CodeAlreadySpent, "the ticket is spent")
	case errors.Is(err, ledger.ErrKeyClosed):
		return refuse(wire.CodeTicketExpired, "the ticket is expired")
	case errors.Is(err, ledger.ErrGrants):
		return refuse(wire.CodeNotAllowed, "this account has 64 grants: use some of them first")
	case errors.Is(err, ledger.ErrAccounts), errors.Is(err, ledger.ErrAttachments):
		return &refusal{wire.CodeBusy, "the gateway has no room for this registration: try again later", err}
	case errors.Is(err, ledger.ErrAddress):
		return &refusal{wire.CodeNoAddressFree, "no address is free: try again later", err}
	case errors.Is(err, ledger.ErrStorage) && !errors.Is(err, ledger.ErrFull):
		a.release = nil // perhaps it was written
		return err
	case err != nil:
		return err
	}
	a.release = nil
	a.account, a.committed = receipt.Account, a.committed || receipt.Outcome == ledger.Repeated
	return nil
}

// setDevice is step 9. If it fails, the grant and the attachment stay, and a repeat goes on here.
func (a *attempt) setDevice(ctx context.Context) error {
	if a.m.Mode != wire.ModeDVPN {
		return nil
	}
	if err := a.config.Device.Set(ctx, a.peer); err != nil {
		return deviceFailed(err)
	}
	return nil
}

func deviceFailed(err error) error {
	return &refusal{wire.CodeDeviceFailed, "the gateway cannot set up the peer: try again later, nothing is spent twice", err}
}

// finish is step 10: the attachment is on, and those that it replaces go.
func (a *attempt) finish(ctx context.Context) error {
	if a.m.Mode != wire.ModeDVPN {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	for _, old := range a.account.Attachments {
		if old.Mode == ledger.DVPN && old.State == ledger.Removing {
			if err := a.ledger.RemoveAttachment(ctx, a.client, old.Mode, old.WireGuardKey, a.config.Device.RestTime(), a.now); err != nil {
				return err
			}
		}
	}
	a.attach.State = ledger.On
	return a.ledger.SetAttachment(ctx, a.client, *a.attach, a.now)
}

// result is the answer. A request that spent a ticket before has the result that it had then.
func (a *attempt) result() *wire.RegisterResult {
	now := a.granted(&a.account)
	if a.committed && a.token != nil {
		if first, found := a.firstResult(); found {
			first.Peer = now.Peer // the device, and with it the preshared key, may have another key since
			return first
		}
	}
	return now
}

// granted returns the result of an account, without a request id.
func (a *attempt) granted(account *ledger.Account) *wire.RegisterResult {
	result := &wire.RegisterResult{Code: wire.CodeOK}
	result.Remaining, result.ExpiresAt = a.left(account)
	if a.m.Mode == wire.ModeDVPN {
		p := &wire.WireGuardPeer{IPv4: a.peer.IPv4, IPv6: a.peer.IPv6}
		p.PublicKey, p.Endpoint = a.config.Device.Data()
		result.Peer = p
	}
	return result
}

func (a *attempt) firstResult() (*wire.RegisterResult, bool) {
	stored, found, err := a.ledger.Result(a.request)
	if err != nil || !found {
		return nil, false
	}
	result, err := wire.ParseRegisterResult(append(make([]byte, 4), stored...))
	return &result, err == nil
}

// left returns what an account has left and when its last grant expires.
func (a *attempt) left(account *ledger.Account) (bytes, expires uint64) {
	if a.unlimited() {
		return wire.Unlimited, 0
	}
	left := a.Registrar.left(account, a.now)
	if left == 0 {
		return 0, 0
	}
	_, end := account.Left(a.now)
	return min(left, wire.Unlimited-1), uint64(end.Unix())
}

// left returns what a limited account has left, without what was used and is not recorded yet.
func (r *Registrar) left(account *ledger.Account, now time.Time) uint64 {
	left, _ := account.Left(now)
	if r.config.Unrecorded != nil {
		left -= min(left, r.config.Unrecorded(account.ID))
	}
	return left
}
