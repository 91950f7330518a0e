// The verifier of these tests trusts one authority of their own, instead of the machine's.
//
//go:debug x509usefallbackroots=1
package action

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/sandbox"
)

// servers are those of this test binary.
var servers sandbox.Suite

func TestMain(m *testing.M) {
	pool := x509.NewCertPool()
	pool.AddCert(authority().Leaf)
	x509.SetFallbackRoots(pool)
	goleak.VerifyTestMain(servers.Main(m))
}

// authority is a certificate for 127.0.0.1 that the tests' clients trust.
var authority = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
})

// serve starts a server of HTTP, or of HTTPS that the tests' clients trust.
func serve(t *testing.T, secure bool, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = discard()
	if secure {
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{authority()}}
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}
