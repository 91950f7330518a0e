package action

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/fraiseql/weir/internal/setting"
)

// Headers of Standard Webhooks, and FraiseQL's.
const (
	headerID        = "webhook-id"
	headerTimestamp = "webhook-timestamp"
	headerSignature = "webhook-signature"
	headerFraiseQL  = "X-Fraiseql-Signature-256" // in Go's canonical form; header names have no case
)

// headerReplayOf names the delivery that this one repeats, in HTTP requests and in mails.
const headerReplayOf = "X-Weir-Replay-Of"

// base64Prefix marks a secret that is base64; others are used as they are.
const base64Prefix = "whsec_"

// signer signs with every one of its keys, so that receivers can change theirs at any moment of a rotation.
type signer struct{ keys [][]byte }

// add adds a secret. The error does not repeat it.
func (s *signer) add(secret string) error {
	key := []byte(secret)
	if encoded, ok := strings.CutPrefix(secret, base64Prefix); ok {
		var err error
		if key, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "=")); err != nil || len(key) == 0 {
			return errors.New("what follows whsec_ is not base64: write the secret as the receiver shows it")
		}
	}
	s.keys = append(s.keys, key)
	return nil
}

// sign sets both signatures, over exactly these bytes.
func (s *signer) sign(h http.Header, id string, at time.Time, body []byte) {
	unix := strconv.FormatInt(at.Unix(), 10)
	standard := make([]string, len(s.keys))
	fraiseQL := "t=" + unix
	for i, key := range s.keys {
		standard[i] = "v1," + base64.StdEncoding.EncodeToString(mac(key, id+"."+unix+".", body))
		fraiseQL += ",v1=" + hex.EncodeToString(mac(key, unix+".", body))
	}
	h.Set(headerSignature, strings.Join(standard, " "))
	h.Set(headerFraiseQL, fraiseQL)
}

func mac(key []byte, prefix string, body []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(prefix)) // never fails
	m.Write(body)
	return m.Sum(nil)
}

// literalSecret is a secret that stands in the file. It prints as little as one of the environment.
type literalSecret struct{ setting.Secret }

// UnmarshalYAML reads the secret at a node of the file.
func (s *literalSecret) UnmarshalYAML(_ context.Context, node ast.Node) error {
	text, ok := setting.Text(node)
	if !ok || text == "" {
		return setting.ErrorAt(node, "expected the secret, in quotes; better: its environment variable in signing_secret_env")
	}
	s.Secret = setting.LiteralSecret(text)
	return nil
}
