package action

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"
	"github.com/jackc/pgx/v5"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/setting"
)

// Database calls a function of database.url: SELECT fn($1::jsonb) with {"event": …, "params": …}. It runs in the
// transaction that completes the delivery, so what it does there happens exactly once, or not at all.
type Database struct {
	Common `yaml:",inline"`

	// FunctionName is schema.function, each part as PostgreSQL stores it: case matters, no quotes.
	FunctionName string `yaml:"function_name" jsonschema:"required"`
	// Params are handed to the function as they are.
	Params Params `yaml:"params,omitempty"`

	sql string
}

const databaseType = "database"

var functionPattern = regexp.MustCompile(`^[^\s".()]+\.[^\s".()]+$`)

func (d *Database) check(f fields) []error {
	if !functionPattern.MatchString(d.FunctionName) {
		if !f.has("function_name") {
			return []error{f.errorAt("function_name", "database needs function_name: the function's schema and name, as in app.on_order")}
		}
		return []error{f.errorAt("function_name",
			"%q is no function: expected its schema and name without arguments, as in app.on_order", d.FunctionName)}
	}
	if d.Params == nil {
		d.Params = Params("{}")
	}
	d.sql = "SELECT " + pgx.Identifier(strings.SplitN(d.FunctionName, ".", 2)).Sanitize() + "($1::jsonb)"
	return nil
}

func (d *Database) warnings() []string { return nil }

// Endpoint is "database" unless the action names another.
func (d *Database) Endpoint() string { return cmp.Or(d.EndpointName, databaseType) }

func (d *Database) bind(Deps) Action {
	bound := *d
	return &bound
}

// Do calls the function and completes the delivery, both in one transaction. Every error is worth another attempt: what is
// wrong with the function or its data may be mended.
func (d *Database) Do(ctx context.Context, call Call) (event.Outcome, error) {
	if span := recording(ctx); span != nil {
		span.SetName(d.FunctionName)
		span.SetAttributes(semconv.DBSystemNamePostgreSQL, semconv.DBStoredProcedureName(d.FunctionName))
	}
	start := time.Now()
	argument := d.argument(call)
	var out event.Outcome
	err := call.CompleteTx(ctx, func(ctx context.Context, tx pgx.Tx) (event.Outcome, error) {
		result, err := d.call(ctx, tx, argument)
		out = event.Outcome{ResponseBody: event.Excerpt(result), DurationMS: time.Since(start).Milliseconds()}
		return out, err
	})
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		// What the function returned has been taken back with everything else.
		out = event.Outcome{DurationMS: time.Since(start).Milliseconds()}
		err = Retry(databaseType, fmt.Errorf("%s: %w", d.FunctionName, err))
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = sick(err) // which counts where somebody has given this endpoint a breaker
		}
		return out, err
	}
	return out, nil
}

// Preview is the call of the function.
func (d *Database) Preview(call Call) (Preview, error) {
	return Preview{{"function", d.FunctionName}, {"argument", d.argument(call)}}, nil
}

// argument is what the function gets.
func (d *Database) argument(call Call) string {
	return `{"event":` + string(call.Payload) + `,"params":` + string(d.Params) + `}`
}

// call returns the text of what the function returns, whatever its type: of a set the first row.
func (d *Database) call(ctx context.Context, tx pgx.Tx, argument string) ([]byte, error) {
	rows, err := tx.Query(ctx, d.sql, pgx.QueryResultFormats{pgx.TextFormatCode}, argument)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var result []byte
	if rows.Next() {
		result = bytes.Clone(rows.RawValues()[0])
	}
	rows.Close() // what comes after the first row may fail, too
	return result, rows.Err()
}

// Params is a JSON value that was written in YAML. Numbers keep their digits.
type Params json.RawMessage

// UnmarshalYAML reads any value at a node of the file.
func (p *Params) UnmarshalYAML(_ context.Context, node ast.Node) error {
	var out bytes.Buffer
	if err := writeJSON(&out, node); err != nil {
		return err
	}
	*p = out.Bytes()
	return nil
}

// JSONSchema describes them to editors: anything.
func (Params) JSONSchema() *jsonschema.Schema { return &jsonschema.Schema{} }

func writeJSON(out *bytes.Buffer, node ast.Node) error {
	switch n := node.(type) {
	case *ast.NullNode:
		out.WriteString("null")
	case *ast.BoolNode:
		fmt.Fprintf(out, "%t", n.Value)
	case *ast.MappingNode:
		return writeObject(out, n)
	case *ast.SequenceNode:
		out.WriteByte('[')
		for i, value := range n.Values {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeJSON(out, value); err != nil {
				return err
			}
		}
		out.WriteByte(']')
	case *ast.IntegerNode, *ast.FloatNode:
		return writeNumber(out, node)
	default:
		text, ok := setting.Text(node)
		if !ok {
			return setting.ErrorAt(node, "JSON has no such value: put quotes round it")
		}
		quoted, err := json.Marshal(text)
		out.Write(quoted)
		return err
	}
	return nil
}

func writeObject(out *bytes.Buffer, n *ast.MappingNode) error {
	out.WriteByte('{')
	for i, pair := range n.Values {
		if i > 0 {
			out.WriteByte(',')
		}
		key, err := json.Marshal(pair.Key.GetToken().Value)
		if err != nil {
			return setting.ErrorAt(pair.Key, "%s", err)
		}
		out.Write(key)
		out.WriteByte(':')
		if err := writeJSON(out, pair.Value); err != nil {
			return err
		}
	}
	out.WriteByte('}')
	return nil
}

// writeNumber keeps the digits of what is a number in JSON, too, and refuses 0x1F, 1_000 and .5, of which nobody knows
// whether they were meant as text.
func writeNumber(out *bytes.Buffer, node ast.Node) error {
	text := node.GetToken().Value
	if !json.Valid([]byte(text)) {
		return setting.ErrorAt(node, "%s is no number in JSON: write it in decimal digits, or put quotes round it", text)
	}
	out.WriteString(text)
	return nil
}
