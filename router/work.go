package router

import (
	"bytes"
	"time"

	"lewes/router/account"
	"lewes/state"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// A client's packet that costs the shard more than a few datagrams is a task. It is charged to its
// session and its account before it is done, and waits until its account's turn in the share of time
// that handshakes and tasks have, so that nobody's datagrams wait behind it.

// Costs of tasks: upper bounds of what BenchmarkCosts measures. They are charged, not measured again.
const (
	costFlow   = 50 * time.Microsecond  // socket, policy
	costLookup = 100 * time.Microsecond // goroutine, then costFlow
	costRekey  = 100 * time.Microsecond // one of the two parts of a KK1, or an index that is refused
)

// A session may use a tenth of a shard's time for tasks, an account a quarter, each for up to a second
// in advance. An entry's account has no budget of its own: that of each session and the turns suffice.
const (
	SessionShare = 10
	AccountShare = 4
	taskDepth    = time.Second
)

// charge takes the cost of a task from the budgets of its session and account. It reports false, and
// counts it, if one of them is used up.
func (st *shardState) charge(now time.Time, c *client, cost time.Duration) bool {
	if c.work.Take(now, cost*SessionShare, taskDepth) &&
		(c.account.Key().Entry() || c.account.Work.Take(now, cost*AccountShare, taskDepth)) {
		return true
	}
	st.counters.OverBudget++
	return false
}

// task is a queued task: a flow to open, the oldest message of a client's rekey, or a Register.
type task struct {
	flow     *flow
	rekey    *client
	register *client // with its request
	request  *state.RegisterRequest
}

// rekeyMessage is a queued message of a rekey.
type rekeyMessage struct {
	keys    *state.KeySet
	kind    wire.Type
	content []byte // owned
	from    path.Path
}

// workQueue holds the tasks of a shard. The accounts that have some take turns, and within an account
// its sessions: an entry's clients share one account.
type workQueue struct {
	accounts turns[*account.Account, *turns[*client, *sessionWork]]
	count    int
}

// sessionWork is the tasks of one session, oldest first.
type sessionWork struct{ tasks []task }

func (q *workQueue) len() int { return q.count }

func (q *workQueue) push(c *client, t task) {
	sessions := q.accounts.of(c.account, func() *turns[*client, *sessionWork] { return new(turns[*client, *sessionWork]) })
	w := sessions.of(c, func() *sessionWork { return new(sessionWork) })
	w.tasks = append(w.tasks, t)
	q.count++
}

// pop returns the next task of the session whose turn it is, of the account whose turn it is.
func (q *workQueue) pop() task {
	sessions := q.accounts.first()
	w := sessions.first()
	t := w.tasks[0]
	w.tasks[0] = task{}
	w.tasks = w.tasks[1:]
	sessions.next(len(w.tasks) == 0)
	q.accounts.next(sessions.len() == 0)
	q.count--
	return t
}

// turns gives owners turns. Its zero value is ready to use.
type turns[K comparable, V any] struct {
	order []K // of their turns
	byKey map[K]V
}

func (t *turns[K, V]) len() int { return len(t.byKey) }

// of returns what an owner has, and makes it for a new one, who comes last.
func (t *turns[K, V]) of(k K, create func() V) V {
	v, ok := t.byKey[k]
	if !ok {
		if t.byKey == nil {
			t.byKey = make(map[K]V)
		}
		v = create()
		t.byKey[k] = v
		t.order = append(t.order, k)
	}
	return v
}

// first returns what the owner has whose turn it is.
func (t *turns[K, V]) first() V { return t.byKey[t.order[0]] }

// next ends the turn of the first owner, who comes last then, or goes if it has nothing left.
func (t *turns[K, V]) next(gone bool) {
	k := t.order[0]
	var none K
	t.order[0] = none
	if t.order = t.order[1:]; !gone {
		t.order = append(t.order, k)
	} else if delete(t.byKey, k); len(t.byKey) == 0 {
		t.order = nil
	}
}

// Bounds of the queued messages of one session's rekey, and of each in bytes: TCP carries longer ones,
// which are of no use.
const (
	maxRekeyMessages = 4
	maxRekeyMessage  = wire.PartHeaderSize + parts.MaxHandshake
)

// queueRekey queues a message that may cost public-key operations or new keys (section 7).
func (st *shardState) queueRekey(rx *rxContext, c *client, t wire.Type, content []byte) {
	if len(content) > maxRekeyMessage || len(c.rekey) >= maxRekeyMessages || !st.charge(rx.now, c, costRekey) {
		st.counters.Refused++
		return
	}
	c.rekey = append(c.rekey, rekeyMessage{rx.keys, t, bytes.Clone(content), rx.from})
	st.work.push(c, task{rekey: c})
	st.runQueued()
}

// runTask does one task.
func (st *shardState) runTask(now time.Time, t *task) {
	if t.flow != nil {
		st.closeDiscarded(now) // so that flows do not open faster than sockets are closed
		st.runFlow(now, t.flow)
		return
	}
	if t.register != nil {
		st.runRegister(t.register, t.request)
		return
	}
	c := t.rekey
	m := c.rekey[0]
	if c.rekey = c.rekey[1:]; len(c.rekey) == 0 {
		c.rekey = nil
	}
	err := c.session.Control(now, m.keys, m.kind, m.content, m.from, &st.output)
	if err != nil && m.kind == wire.TypeSubsessionKK1 {
		st.counters.RekeysFailed++
	}
	st.count(err)
	st.applyEvents(c.session)
}
