package orders

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	headerFraiseQL = "X-Fraiseql-Signature-256" // t=<unix seconds>,v1=<hex>[,v1=<hex>…]
	base64Prefix   = "whsec_"
	// tolerance is how old a signature may be: a request that was recorded is of no use later.
	tolerance = 5 * time.Minute
)

// keyOf is the key of a secret: what follows whsec_ is base64, any other text is the key itself.
func keyOf(secret string) ([]byte, error) {
	if secret == "" {
		return nil, errors.New("the signing secret is empty: use the one that weir.yaml's signing_secret_env names")
	}
	encoded, ok := strings.CutPrefix(secret, base64Prefix)
	if !ok {
		return []byte(secret), nil
	}
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if err != nil || len(key) == 0 {
		return nil, errors.New("the signing secret is not base64 behind whsec_")
	}
	return key, nil
}

// verifyFraiseQL checks FraiseQL's header: an HMAC over "<t>.<body>". While secrets are rotated it holds several v1.
func verifyFraiseQL(key []byte, header string, body []byte) error {
	stamp, rest, _ := strings.Cut(header, ",")
	unix, ok := strings.CutPrefix(stamp, "t=")
	seconds, err := strconv.ParseInt(unix, 10, 64)
	if !ok || err != nil {
		return errors.New("missing or malformed")
	}
	if age := time.Since(time.Unix(seconds, 0)); age.Abs() > tolerance {
		return errors.New("the timestamp is too old or too new")
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(unix + "."))
	mac.Write(body)
	want := mac.Sum(nil)
	for part := range strings.SplitSeq(rest, ",") {
		given, isV1 := strings.CutPrefix(part, "v1=")
		if got, err := hex.DecodeString(given); isV1 && err == nil && hmac.Equal(got, want) {
			return nil
		}
	}
	return errors.New("no matching signature")
}
