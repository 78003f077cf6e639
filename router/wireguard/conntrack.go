package wireguard

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
)

// Numbers of Linux's nfnetlink, nfnetlink_conntrack and nf_tables, which have no names elsewhere.
const (
	netfilter = 12 // NETLINK_NETFILTER

	conntrackGet    = 1<<8 | 1 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
	conntrackDelete = 1<<8 | 2

	tupleOrig    = 1 // CTA_TUPLE_ORIG
	connZone     = 18
	connID       = 12
	connFilter   = 25
	tupleIP      = 1
	filterFlags  = 1 // CTA_FILTER_ORIG_FLAGS
	matchSource  = 1 // CTA_FILTER_F_CTA_IP_SRC
	matchDest    = 2
	familyIPv4   = 2 // AF_INET, on Linux
	familyIPv6   = 10
	rulesGet     = 10<<8 | 7 // NFNL_SUBSYS_NFTABLES, NFT_MSG_GETRULE
	nestedOrNet  = 0xc000    // NLA_F_NESTED and NLA_F_NET_BYTEORDER
	genmsgLength = 4         // of struct nfgenmsg
)

// forgetConnections deletes the tracked connections from and to an address: the peer that gets it next must
// not receive their packets. It needs CAP_NET_ADMIN.
func forgetConnections(a netip.Addr) error {
	c, err := netlink.Dial(netfilter, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, side := range []uint32{matchSource, matchDest} {
		found, err := connections(c, a, side)
		if err != nil {
			return fmt.Errorf("wireguard: list connections: %w", err)
		}
		for _, m := range found {
			// The entry may end by itself.
			if _, err := c.Execute(m); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("wireguard: delete a connection: %w", err)
			}
		}
	}
	return nil
}

// connections returns requests to delete the connections with an address at one side.
func connections(c *netlink.Conn, a netip.Addr, side uint32) ([]netlink.Message, error) {
	family, attribute := byte(familyIPv4), uint16(side)
	if a.Is6() {
		family, attribute = familyIPv6, uint16(side)+2
	}
	head := []byte{family, 0, 0, 0}
	e := netlink.NewAttributeEncoder()
	e.Nested(tupleOrig, func(e *netlink.AttributeEncoder) error {
		e.Nested(tupleIP, func(e *netlink.AttributeEncoder) error {
			e.Bytes(attribute, a.AsSlice())
			return nil
		})
		return nil
	})
	e.Nested(connFilter, func(e *netlink.AttributeEncoder) error { // Linux 5.8 or later: older ones send all
		e.Uint32(filterFlags, side)
		return nil
	})
	b, err := e.Encode()
	if err != nil {
		return nil, err
	}
	all, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: conntrackGet, Flags: netlink.Request | netlink.Dump},
		Data:   append(bytes.Clone(head), b...),
	})
	if err != nil {
		return nil, err
	}
	var found []netlink.Message
	for _, m := range all {
		if len(m.Data) < genmsgLength {
			continue
		}
		if has, key := connection(m.Data[genmsgLength:], attribute); bytes.Equal(has, a.AsSlice()) {
			found = append(found, netlink.Message{
				Header: netlink.Header{Type: conntrackDelete, Flags: netlink.Request | netlink.Acknowledge},
				Data:   append(bytes.Clone(head), key...),
			})
		}
	}
	return found, nil
}

// connection returns an address of an entry, and the attributes that identify the entry.
func connection(data []byte, attribute uint16) (addr, key []byte) {
	attrs, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return nil, nil
	}
	var keys []netlink.Attribute
	for _, x := range attrs {
		switch x.Type &^ nestedOrNet {
		case tupleOrig:
			addr = inner(inner(x.Data, tupleIP), attribute)
			keys = append(keys, x)
		case connZone, connID:
			keys = append(keys, x)
		}
	}
	key, err = netlink.MarshalAttributes(keys)
	if err != nil {
		return nil, nil
	}
	return addr, key
}

// inner returns the data of an attribute inside another's data.
func inner(data []byte, attribute uint16) []byte {
	attrs, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return nil
	}
	for _, x := range attrs {
		if x.Type&^nestedOrNet == attribute {
			return x.Data
		}
	}
	return nil
}
