package wallet

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestContents(t *testing.T) {
	w := newWallet(t, 5)
	change(t, w, func(c *content) {
		c.Tickets[0].Refused = "ticket invalid"
		b := testRelay.binding()
		c.Tickets[1].Spend = &b
		c.Tickets[2].Until = testNow.Unix()
		for _, x := range c.Tickets {
			x.Issuer = "https://issuer.example#" + testKey(2).String()
		}
		c.Fetches = []*fetch{{Gateway: hex32(testGateway), Issuer: c.Tickets[0].Issuer, Voucher: make(secret, 16), Seeds: []secret{newSecret(), newSecret()}}}
		c.Accounts = []*account{{Gateway: hex32(testGateway), Seed: newSecret(), Seen: testNow.Unix(), Remaining: 7}}
	})
	c, err := w.Contents()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[State]int)
	for _, x := range c.Tickets {
		counts[x.State] += x.Count
		if x.Issuer != "issuer.example" || x.Gateway != testGateway || x.Bytes != 1000 {
			t.Errorf("%+v", x)
		}
	}
	if len(c.Tickets) != 4 || counts[Ready] != 2 || counts[Spending] != 1 || counts[Expired] != 1 || counts[Refused] != 1 || c.Tickets[0].State != Expired {
		t.Errorf("tickets %+v", c.Tickets)
	}
	if len(c.Fetches) != 1 || c.Fetches[0].Missing != 2 || len(c.Accounts) != 1 || c.Accounts[0].Ended || c.Accounts[0].Remaining != 7 {
		t.Errorf("%+v", c)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range read(t, w).Tickets {
		secret, _ := x.Token.MarshalText()
		if strings.Contains(string(text), `"`+string(secret)+`"`) {
			t.Errorf("%s contains a token", text)
		}
	}
}
