package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// field is a struct's field that has a key in the file.
type field struct {
	key   string
	dst   reflect.Value
	rules rules
}

// rules are what a jsonschema tag says of a value.
type rules struct {
	required         bool
	minimum, maximum int64
	minItems         int
	enum             []string
}

func fieldsOf(structure reflect.Value) []field {
	var fields []field
	for i := range structure.NumField() {
		f := structure.Type().Field(i)
		key, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			fields = append(fields, fieldsOf(structure.Field(i))...)
		case key != "" && key != "-":
			fields = append(fields, field{key: key, dst: structure.Field(i), rules: parseRules(f.Tag.Get("jsonschema"))})
		}
	}
	return fields
}

func parseRules(tag string) rules {
	r := rules{minimum: math.MinInt64, maximum: math.MaxInt64}
	for rule := range strings.SplitSeq(tag, ",") {
		name, value, _ := strings.Cut(rule, "=")
		switch name {
		case "required":
			r.required = true
		case "minimum":
			r.minimum = mustInt(value)
		case "maximum":
			r.maximum = mustInt(value)
		case "minItems":
			r.minItems = int(mustInt(value))
		case "enum":
			r.enum = append(r.enum, value)
		}
	}
	return r
}

// mustInt panics: a bad tag is the programmer's mistake.
func mustInt(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic("config: jsonschema tag: " + err.Error())
	}
	return n
}

func (r rules) rangeText() string {
	switch {
	case r.maximum == math.MaxInt64:
		return fmt.Sprintf("expected at least %d", r.minimum)
	case r.minimum == math.MinInt64:
		return fmt.Sprintf("expected at most %d", r.maximum)
	default:
		return fmt.Sprintf("expected %d to %d", r.minimum, r.maximum)
	}
}

// didYouMean is a question about the likeliest of the known words, "" when none is near.
func didYouMean(word string, known []string) string {
	if best := Nearest(word, known); best != "" {
		return fmt.Sprintf("did you mean %s? ", best)
	}
	return ""
}

// Nearest is the one of the known words that is spelt most nearly like a word, "" when none is near.
func Nearest(word string, known []string) string {
	best, distance := "", max(1, min(len(word)/3, 3))+1
	for _, k := range known {
		if n := editDistance(strings.ToLower(word), k); n < distance {
			best, distance = k, n
		}
	}
	return best
}

// editDistance counts the letters to insert, remove, replace or swap with a neighbor (optimal string alignment).
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a) // no key is that long: don't compute
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
