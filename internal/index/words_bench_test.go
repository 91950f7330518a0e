package index_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/index"
)

// BenchmarkWords is what a follower computes for each document, of an event of about 500 bytes.
func BenchmarkWords(b *testing.B) {
	e := benchEvent(time.Now(), 7)
	e.Data = json.RawMessage(fmt.Sprintf(`{"customer":"customer7","status":"shipped","total":12.50,"items":[{"sku":"A-4711","quantity":3},`+
		`{"sku":"B-0815","quantity":1}],"address":{"city":"Amsterdam","street":"Lange Straat 12"},"note":%q}`,
		strings.Repeat("leave it at the door ", 5)))
	payload, err := e.JSON()
	checkBench(b, err)
	d := benchDocument(time.Now(), 7)
	d.Payload = payload
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		index.TSVector(d.Runs())
	}
}
