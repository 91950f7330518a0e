package setting

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"
)

// Rate is how often something may happen, written as in 50/s, 600/m or 1000/h. Its zero value is no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// maxRate bounds a rate's number, so that the time between two is never less than a microsecond.
const maxRate = 1_000_000

// ParseRate reads the form that weir.yaml has.
func ParseRate(s string) (Rate, error) {
	count, unit, _ := strings.Cut(s, "/")
	n, err := strconv.Atoi(strings.TrimSpace(count))
	per := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[strings.TrimSpace(unit)]
	if err != nil || per == 0 {
		return Rate{}, fmt.Errorf("%q is not a rate: write a whole number and a unit of time, as in 50/s, 600/m or 1000/h", s)
	}
	if n < 1 || n > maxRate {
		return Rate{}, fmt.Errorf("%q is out of range: expected 1 to %d of a unit of time, as in 50/s", s, maxRate)
	}
	return Rate{Count: n, Per: per}, nil
}

// IsZero says that there is no limit.
func (r Rate) IsZero() bool { return r.Count == 0 }

// Gap is the time between two, at an even pace; 0 without a limit.
func (r Rate) Gap() time.Duration { return r.Per / time.Duration(max(1, r.Count)) }

// String is the form that ParseRate reads.
func (r Rate) String() string {
	if r.IsZero() {
		return ""
	}
	unit := map[time.Duration]string{time.Second: "s", time.Minute: "m", time.Hour: "h"}[r.Per]
	return strconv.Itoa(r.Count) + "/" + unit
}

// UnmarshalYAML reads a rate at a node of the file.
func (r *Rate) UnmarshalYAML(_ context.Context, node ast.Node) error {
	text, ok := Text(node)
	if !ok {
		return ErrorAt(node, "expected a rate, as in 50/s, 600/m or 1000/h")
	}
	v, err := ParseRate(text)
	if err != nil {
		return ErrorAt(node, "%s", err)
	}
	*r = v
	return nil
}

// JSONSchema describes a rate to editors.
func (Rate) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{
		Type: "string", Pattern: `^[1-9][0-9]*/[smh]$`, Description: "A rate, by second, minute or hour: 50/s, 600/m, 1000/h.",
	}
}
