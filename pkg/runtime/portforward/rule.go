package portforward

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rule is a table of nftables in one network namespace. It belongs to the socket that made it (NFT_TABLE_F_OWNER, Linux
// 5.12): nobody else can change it, and the kernel removes it when the socket is closed, whoever dies.
type rule struct{ socket int }

const (
	tableName = "katadirect"
	chainName = "localhost"
	// tableOwned is NFT_TABLE_F_OWNER.
	tableOwned = 1 << 1
	// priorityDNAT is NF_IP_PRI_NAT_DST.
	priorityDNAT = -100
	// answerSeconds bounds the wait for the kernel.
	answerSeconds = 10
)

// redirectLoopback has the namespace of the calling thread lead what is dialed on 127.0.0.0/8 to one TCP port there. As
// nft writes it:
//
//	table ip katadirect { flags owner
//	  chain localhost { type nat hook output priority dstnat
//	    meta l4proto tcp ip daddr 127.0.0.0/8 redirect to :port } }
func redirectLoopback(port uint16) (_ *rule, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	r := &rule{fd}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("nftables: %w", err), r.remove())
		}
	}()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerSeconds}); err != nil {
		return nil, err
	}
	if err := unix.Sendto(fd, batch(port), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	return r, r.confirmed(tableStep, chainStep, ruleStep)
}

func (r *rule) remove() error { return os.NewSyscallError("close", unix.Close(r.socket)) }

// Numbers of the messages that make the rule, by which they are confirmed.
const (
	beginStep = iota + 1
	tableStep
	chainStep
	ruleStep
	endStep
)

// batch is all messages: the kernel does all of them or none.
func batch(port uint16) []byte {
	subsystem := func(message int) uint16 { return uint16(unix.NFNL_SUBSYS_NFTABLES<<8 | message) }
	var b []byte
	b = append(b, message(beginStep, unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC)...)
	b = append(b, message(tableStep, subsystem(unix.NFT_MSG_NEWTABLE), unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, unix.NFPROTO_IPV4,
		text(unix.NFTA_TABLE_NAME, tableName), number(unix.NFTA_TABLE_FLAGS, tableOwned))...)
	b = append(b, message(chainStep, subsystem(unix.NFT_MSG_NEWCHAIN), unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, unix.NFPROTO_IPV4,
		text(unix.NFTA_CHAIN_TABLE, tableName), text(unix.NFTA_CHAIN_NAME, chainName), text(unix.NFTA_CHAIN_TYPE, "nat"),
		nested(unix.NFTA_CHAIN_HOOK,
			number(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT), number(unix.NFTA_HOOK_PRIORITY, signed(priorityDNAT))))...)
	b = append(b, message(ruleStep, subsystem(unix.NFT_MSG_NEWRULE), unix.NLM_F_CREATE|unix.NLM_F_APPEND|unix.NLM_F_ACK, unix.NFPROTO_IPV4,
		text(unix.NFTA_RULE_TABLE, tableName), text(unix.NFTA_RULE_CHAIN, chainName),
		nested(unix.NFTA_RULE_EXPRESSIONS,
			expression("meta", number(unix.NFTA_META_KEY, unix.NFT_META_L4PROTO), number(unix.NFTA_META_DREG, unix.NFT_REG_1)),
			equal([]byte{unix.IPPROTO_TCP}),
			expression("payload", number(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1),
				number(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER),
				number(unix.NFTA_PAYLOAD_OFFSET, ipDestination), number(unix.NFTA_PAYLOAD_LEN, 1)),
			equal([]byte{127}),
			expression("immediate", number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1),
				nested(unix.NFTA_IMMEDIATE_DATA, nl.NewRtAttr(unix.NFTA_DATA_VALUE, binary.BigEndian.AppendUint16(nil, port)))),
			expression("redir", number(unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFT_REG_1)),
		))...)
	return append(b, message(endStep, unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC)...)
}

// ipDestination is where the destination's address begins in an IPv4 header.
const ipDestination = 16

// message is one of nfnetlink: netlink's header, its own, and attributes.
func message(step uint32, kind uint16, flags uint16, family uint8, attributes ...*nl.RtAttr) []byte {
	resource := uint16(0)
	if family == unix.AF_UNSPEC { // of a batch: what it is about
		resource = unix.NFNL_SUBSYS_NFTABLES
	}
	body := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	for _, a := range attributes {
		body = append(body, a.Serialize()...)
	}
	header := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	header = binary.NativeEndian.AppendUint16(header, kind)
	header = binary.NativeEndian.AppendUint16(header, flags|unix.NLM_F_REQUEST)
	header = binary.NativeEndian.AppendUint32(header, step)
	header = binary.NativeEndian.AppendUint32(header, 0)
	return append(header, body...)
}

func text(kind int, value string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(value)) }

func number(kind int, value uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.BEUint32Attr(value)) }

func signed(value int32) uint32 { return uint32(value) }

func nested(kind int, attributes ...*nl.RtAttr) *nl.RtAttr {
	outer := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
	for _, a := range attributes {
		outer.AddChild(a)
	}
	return outer
}

func expression(name string, attributes ...*nl.RtAttr) *nl.RtAttr {
	return nested(unix.NFTA_LIST_ELEM, text(unix.NFTA_EXPR_NAME, name), nested(unix.NFTA_EXPR_DATA, attributes...))
}

// equal goes on only where the register has the value.
func equal(value []byte) *nl.RtAttr {
	return expression("cmp", number(unix.NFTA_CMP_SREG, unix.NFT_REG_1), number(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ),
		nested(unix.NFTA_CMP_DATA, nl.NewRtAttr(unix.NFTA_DATA_VALUE, value)))
}

// confirmed waits until the kernel has answered each step, or refused one.
func (r *rule) confirmed(steps ...uint32) error {
	buffer := make([]byte, os.Getpagesize())
	for left := len(steps); left > 0; {
		n, _, err := unix.Recvfrom(r.socket, buffer, 0)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		answers, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Header.Type != unix.NLMSG_ERROR || len(a.Data) < 4 {
				continue
			}
			if errno := int32(binary.NativeEndian.Uint32(a.Data)); errno != 0 {
				return fmt.Errorf("step %d: %w", a.Header.Seq, unix.Errno(-errno))
			}
			left--
		}
	}
	return nil
}
