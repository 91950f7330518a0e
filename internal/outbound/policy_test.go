package outbound

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestPolicyRefusesWhatIsNotPublic(t *testing.T) {
	t.Parallel()
	tests := []struct{ addr, kind string }{
		{"127.0.0.1", "loopback"},
		{"127.8.8.8", "loopback"},
		{"::1", "loopback"},
		{"::ffff:127.0.0.1", "loopback"},
		{"64:ff9b::7f00:1", "loopback"},
		{"10.0.0.1", "private"},
		{"172.16.0.1", "private"},
		{"172.31.255.255", "private"},
		{"192.168.1.1", "private"},
		{"::ffff:192.168.1.1", "private"},
		{"64:ff9b::c0a8:101", "private"},
		{"fd00::1", "private"},
		{"fc00::1", "private"},
		{"100.64.0.1", "carrier-grade NAT"},
		{"100.127.255.255", "carrier-grade NAT"},
		{"169.254.169.254", "link-local"},
		{"::ffff:169.254.169.254", "link-local"},
		{"64:ff9b::a9fe:a9fe", "link-local"},
		{"fe80::1", "link-local"},
		{"fe80::1%eth0", "link-local"},
		{"febf::1", "link-local"},
		{"fec0::1", "site-local"},
		{"0.0.0.0", "unspecified"},
		{"0.1.2.3", "unspecified"},
		{"::", "unspecified"},
		{"192.0.0.8", "protocol assignment"},
		{"192.0.2.1", "documentation"},
		{"198.51.100.1", "documentation"},
		{"203.0.113.1", "documentation"},
		{"2001:db8::1", "documentation"},
		{"3fff::1", "documentation"},
		{"198.18.0.1", "benchmark"},
		{"198.19.255.255", "benchmark"},
		{"2001:2::1", "protocol assignment"},
		{"224.0.0.1", "multicast"},
		{"239.255.255.255", "multicast"},
		{"ff02::1", "multicast"},
		{"240.0.0.1", "reserved"},
		{"255.255.255.255", "broadcast"},
		{"192.88.99.1", "6to4 relay"},
		{"2002:7f00:1::", "6to4"},
		{"2002:808:808::", "6to4"},
		{"2001:0:7f00:1::", "Teredo"},
		{"64:ff9b:1::7f00:1", "local NAT64"},
		{"::127.0.0.1", "reserved"},
		{"::ffff:0:127.0.0.1", "reserved"},
		{"100::1", "reserved"},
		{"5f00::1", "reserved"},

		{"8.8.8.8", ""},
		{"172.32.0.1", ""},
		{"100.128.0.1", ""},
		{"169.253.1.1", ""},
		{"::ffff:8.8.8.8", ""},
		{"64:ff9b::808:808", ""},
		{"2606:4700:4700::1111", ""},
		{"2a00:1450:4001::1", ""},
	}
	p := newPolicy(nil)
	for _, tt := range tests {
		t.Run(tt.addr, func(t *testing.T) {
			t.Parallel()
			err := p.check("example.org", netip.MustParseAddr(tt.addr))
			var blocked *BlockedError
			switch {
			case tt.kind == "" && err != nil:
				t.Errorf("public address refused: %v", err)
			case tt.kind != "" && !errors.As(err, &blocked):
				t.Errorf("got %v, want a BlockedError", err)
			case tt.kind != "" && blocked.Kind != tt.kind:
				t.Errorf("got kind %q, want %q", blocked.Kind, tt.kind)
			}
		})
	}
}

func TestPolicyAllows(t *testing.T) {
	t.Parallel()
	tests := []struct {
		allow, host, addr string
		ok                bool
	}{
		{"10.1.0.0/16", "a.test", "10.1.2.3", true},
		{"10.1.0.0/16", "a.test", "::ffff:10.1.2.3", true},
		{"10.1.0.0/16", "a.test", "64:ff9b::a01:203", true},
		{"10.1.0.0/16", "a.test", "10.2.0.1", false},
		{"127.0.0.1", "a.test", "127.0.0.1", true},
		{"127.0.0.1", "a.test", "127.0.0.2", false},
		{"127.0.0.1", "a.test", "::1", false},
		{"::1", "a.test", "::1", true},
		{"[::1]", "a.test", "::1", true},
		{"fd00::/8", "a.test", "fd12::1", true},
		{"169.254.169.254", "a.test", "169.254.169.254", true},
		{"fe80::/10", "a.test", "fe80::1%eth0", true},

		{"hooks.internal", "hooks.internal", "10.9.9.9", true},
		{"hooks.internal", "HOOKS.internal.", "10.9.9.9", true},
		{"Hooks.Internal.", "hooks.internal", "fd00::1", true},
		{"hooks.internal", "hooks.internal", "127.0.0.1", true},
		{"hooks.internal", "hooks.internal", "100.64.1.1", true},
		{"hooks.internal", "other.internal", "10.9.9.9", false},
		{"hooks.internal", "a.hooks.internal", "10.9.9.9", false},
		{"hooks.internal", "hooks.internal", "169.254.169.254", false},
		{"hooks.internal", "hooks.internal", "::ffff:169.254.169.254", false},
		{"hooks.internal", "hooks.internal", "64:ff9b::a9fe:a9fe", false},
		{"hooks.internal", "hooks.internal", "fe80::1", false},
		{"hooks.internal", "hooks.internal", "0.0.0.0", false},
		{"hooks.internal", "hooks.internal", "224.0.0.1", false},
		{"hooks.internal", "hooks.internal", "2002:7f00:1::", false},
	}
	for _, tt := range tests {
		t.Run(tt.allow+" "+tt.host+" "+tt.addr, func(t *testing.T) {
			t.Parallel()
			target, err := ParseTarget(tt.allow)
			if err != nil {
				t.Fatal(err)
			}
			err = newPolicy([]Target{target}).check(tt.host, netip.MustParseAddr(tt.addr))
			if (err == nil) != tt.ok {
				t.Errorf("got %v, want allowed %v", err, tt.ok)
			}
		})
	}
}

func TestBlockedErrorSaysWhatToDo(t *testing.T) {
	t.Parallel()
	private := newPolicy(nil).check("erp.test", netip.MustParseAddr("10.0.0.1"))
	if want := "erp.test (10.0.0.1) is a private address: add it to outbound.allow if observers may reach it"; private.Error() != want {
		t.Errorf("got %q, want %q", private, want)
	}
	name, err := ParseTarget("meta.test")
	if err != nil {
		t.Fatal(err)
	}
	linkLocal := newPolicy([]Target{name}).check("meta.test", netip.MustParseAddr("169.254.169.254"))
	if !strings.Contains(linkLocal.Error(), "add the address itself") {
		t.Errorf("got %q", linkLocal)
	}
}

func FuzzPolicyUnmasksIPv4(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add([]byte{8, 8, 8, 8})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) != 4 {
			t.Skip("not four bytes")
		}
		v4 := netip.AddrFrom4([4]byte(raw))
		mapped := netip.AddrFrom16(v4.As16())
		p := newPolicy(nil)
		if a, b := p.check("h", v4), p.check("h", mapped); (a == nil) != (b == nil) {
			t.Errorf("%s: %v, but %s: %v", v4, a, mapped, b)
		}
	})
}
