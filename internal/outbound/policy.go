package outbound

import (
	"fmt"
	"net/netip"
)

// BlockedError says that a target is not on the public internet and not listed in `outbound.allow`.
type BlockedError struct {
	// Address is the address that would have been dialed.
	Address netip.Addr
	// Host is the URL's host that resolved to it, or the address itself.
	Host string
	// Kind is what the address is: "loopback", "private", "link-local", …
	Kind string
	// nameAllowed: the name is listed, but a name does not allow this kind.
	nameAllowed bool
}

// Error says what was refused and how to allow it.
func (e *BlockedError) Error() string {
	subject := e.Address.String()
	if e.Host != subject {
		subject = fmt.Sprintf("%s (%s)", e.Host, e.Address)
	}
	if e.nameAllowed {
		return fmt.Sprintf("%s is a %s address, which an allowed name does not include: add the address itself to outbound.allow",
			subject, e.Kind)
	}
	return fmt.Sprintf("%s is a %s address: add it to outbound.allow if observers may reach it", subject, e.Kind)
}

// network is a range of addresses that is not on the public internet.
type network struct {
	prefix netip.Prefix
	kind   string
	byName bool // an allowed host name may resolve into it
}

// privateNetworks are the ranges of the IANA special-purpose registries that are not globally reachable, and the
// tunnels that would hide an IPv4 address. The first match counts. It is never written to.
var privateNetworks = []network{
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback", true},
	{netip.MustParsePrefix("10.0.0.0/8"), "private", true},
	{netip.MustParsePrefix("172.16.0.0/12"), "private", true},
	{netip.MustParsePrefix("192.168.0.0/16"), "private", true},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT", true},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local", false},
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified", false},
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignment", false},
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation", false},
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation", false},
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation", false},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmark", false},
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relay", false},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast", false},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast", false},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved", false},

	{netip.MustParsePrefix("::1/128"), "loopback", true},
	{netip.MustParsePrefix("fc00::/7"), "private", true},
	{netip.MustParsePrefix("fe80::/10"), "link-local", false},
	{netip.MustParsePrefix("fec0::/10"), "site-local", false},
	{netip.MustParsePrefix("ff00::/8"), "multicast", false},
	{netip.MustParsePrefix("::/128"), "unspecified", false},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "local NAT64", false},
	{netip.MustParsePrefix("2001::/32"), "Teredo", false},
	{netip.MustParsePrefix("2001::/23"), "protocol assignment", false},
	{netip.MustParsePrefix("2001:db8::/32"), "documentation", false},
	{netip.MustParsePrefix("3fff::/20"), "documentation", false},
	{netip.MustParsePrefix("2002::/16"), "6to4", false},
}

var (
	globalUnicast = netip.MustParsePrefix("2000::/3")
	nat64         = netip.MustParsePrefix("64:ff9b::/96")
)

// policy decides which addresses may be dialed. It is immutable.
type policy struct {
	prefixes []netip.Prefix
	names    map[string]bool
}

func newPolicy(allow []Target) policy {
	p := policy{names: map[string]bool{}}
	for _, t := range allow {
		if t.name != "" {
			p.names[t.name] = true
		} else {
			p.prefixes = append(p.prefixes, t.prefix)
		}
	}
	return p
}

// check returns a *BlockedError unless addr, to which host resolved, may be dialed.
func (p policy) check(host string, addr netip.Addr) error {
	addr = plain(addr)
	kind, byName := classify(addr)
	if kind == "" {
		return nil
	}
	for _, prefix := range p.prefixes {
		if prefix.Contains(addr) {
			return nil
		}
	}
	named := p.names[canonicalHost(host)]
	if named && byName {
		return nil
	}
	return &BlockedError{Address: addr, Host: host, Kind: kind, nameAllowed: named}
}

// plain strips what hides an address: the zone, IPv4 mapped into IPv6, and NAT64's well-known prefix. The latter is
// judged by the IPv4 address inside since in an IPv6-only network every IPv4 host has such an address.
func plain(addr netip.Addr) netip.Addr {
	addr = addr.WithZone("").Unmap()
	if nat64.Contains(addr) {
		raw := addr.As16()
		return netip.AddrFrom4([4]byte(raw[12:]))
	}
	return addr
}

// classify returns what kind of non-public address addr is, "" for a public one.
func classify(addr netip.Addr) (kind string, byName bool) {
	for _, n := range privateNetworks {
		if n.prefix.Contains(addr) {
			return n.kind, n.byName
		}
	}
	if addr.Is6() && !globalUnicast.Contains(addr) {
		return "reserved", false
	}
	return "", false
}
