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
// in advance.
const (
	SessionShare = 10
	AccountShare = 4
	taskDepth    = time.Second
)

// charge takes the cost of a task from the budgets of its session and account. It reports false, and
// counts it, if one of them is used up.
func (st *shardState) charge(now time.Time, c *client, cost time.Duration) bool {
	if c.work.Take(now, cost*SessionShare, taskDepth) && c.account.Work.Take(now, cost*AccountShare, taskDepth) {
		return true
	}
	st.counters.OverBudget++
	return false
}

// task is a queued task: a flow to open, or the oldest message of a client's rekey.
type task struct {
	flow  *flow
	rekey *client
}

// rekeyMessage is a queued message of a rekey.
type rekeyMessage struct {
	keys    *state.KeySet
	kind    wire.Type
	content []byte // owned
	from    path.Path
}

// workQueue holds the tasks of a shard. The accounts that have some take turns.
type workQueue struct {
	turns []*accountWork // in the order of their turns
	byKey map[*account.Account]*accountWork
	count int
}

// accountWork is the tasks of one account, oldest first.
type accountWork struct {
	account *account.Account
	tasks   []task
}

func (q *workQueue) len() int { return q.count }

func (q *workQueue) push(a *account.Account, t task) {
	w := q.byKey[a]
	if w == nil {
		if q.byKey == nil {
			q.byKey = make(map[*account.Account]*accountWork)
		}
		w = &accountWork{account: a}
		q.byKey[a] = w
		q.turns = append(q.turns, w)
	}
	w.tasks = append(w.tasks, t)
	q.count++
}

// pop returns the next task of the account whose turn it is.
func (q *workQueue) pop() task {
	w := q.turns[0]
	t := w.tasks[0]
	w.tasks[0] = task{}
	q.turns, w.tasks = q.turns[1:], w.tasks[1:]
	if q.count--; len(w.tasks) > 0 {
		q.turns = append(q.turns, w)
	} else if delete(q.byKey, w.account); q.count == 0 {
		q.turns = nil
	}
	return t
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
	st.work.push(c.account, task{rekey: c})
	st.runQueued()
}

// runTask does one task.
func (st *shardState) runTask(now time.Time, t *task) {
	if t.flow != nil {
		st.closeDiscarded(now) // so that flows do not open faster than sockets are closed
		st.runFlow(now, t.flow)
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
