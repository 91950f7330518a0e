package setting

import (
	"context"
	"crypto/x509"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"
)

// CAFile is a file of certificates in PEM form: authorities that a server's certificate may come from. One that was decoded
// holds at least one certificate.
type CAFile struct {
	path string
	pem  []byte // and no pool, so that two can be compared
}

// IsZero says that no file was given.
func (f CAFile) IsZero() bool { return f.path == "" }

// String is the path as it is in the file.
func (f CAFile) String() string { return f.path }

// Pool is the authorities to verify a server's certificate with: nil, which stands for the system's, where no file was given.
func (f CAFile) Pool() *x509.CertPool {
	if f.IsZero() {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.pem)
	return pool
}

// UnmarshalYAML reads the file that is named at a node, relative to the configuration's folder.
func (f *CAFile) UnmarshalYAML(ctx context.Context, node ast.Node) error {
	path, ok := Text(node)
	if !ok || path == "" {
		return ErrorAt(node, "expected the path of a file of certificates in PEM form, as in relay-ca.pem")
	}
	raw, _, err := OpenNamed(ctx, path)
	if err != nil {
		return ErrorAt(node, "the certificates cannot be read: %s", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(raw) {
		return ErrorAt(node, "%s holds no certificate: expected PEM, which begins with -----BEGIN CERTIFICATE-----", path)
	}
	*f = CAFile{path: path, pem: raw}
	return nil
}

// JSONSchema describes such a file to editors.
func (CAFile) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{
		Type: "string", Description: "A file of certificates in PEM form, relative to the folder of this file.",
	}
}
