package main

import (
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// serveDNS answers questions until the socket is closed: every name has the address at, and a TXT
// record with the address that asked.
func serveDNS(conn *net.UDPConn, at netip.Addr) {
	buffer := make([]byte, 1500)
	for {
		size, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		if answer, err := answerDNS(buffer[:size], at, from.Addr().Unmap()); err == nil {
			_, _ = conn.WriteToUDPAddrPort(answer, from) // who asks asks again
		}
	}
}

func answerDNS(question []byte, at, from netip.Addr) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(question)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}}
	switch q.Type {
	case dnsmessage.TypeA:
		r.Body = &dnsmessage.AResource{A: at.As4()}
	case dnsmessage.TypeTXT:
		r.Body = &dnsmessage.TXTResource{TXT: []string{from.String()}}
	}
	if r.Body != nil {
		m.Answers = []dnsmessage.Resource{r}
	}
	return m.Pack()
}

// questionDNS returns a question for the TXT record of a name.
func questionDNS(id uint16) ([]byte, error) {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("who.example.com."), Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}

// readTXT returns the id and the TXT record of an answer.
func readTXT(answer []byte) (id uint16, text string, err error) {
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil {
		return 0, "", err
	}
	if len(m.Answers) == 1 {
		if r, ok := m.Answers[0].Body.(*dnsmessage.TXTResource); ok && len(r.TXT) == 1 {
			text = r.TXT[0]
		}
	}
	return m.ID, text, nil
}
