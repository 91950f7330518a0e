package rule

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cockroachdb/apd/v3"
)

// functions are those that an expression can call, besides loops. Where expr has one of the same name it is replaced:
// expr's take Go's numbers and panic on a value of another type.
var functions = map[string]function{
	"has_field":          {params: []kind{kindString}, result: kindBool, call: hasField},
	"field_changed":      {params: []kind{kindString}, result: kindBool, call: fieldChanged},
	"field_changed_to":   {params: []kind{kindString, kindAny}, result: kindBool, call: fieldChangedTo},
	"field_changed_from": {params: []kind{kindString, kindAny}, result: kindBool, call: fieldChangedFrom},

	"upper":      onString(strings.ToUpper),
	"lower":      onString(strings.ToLower),
	"trim":       {params: []kind{kindString, kindString}, optional: 1, result: kindString, call: trim},
	"trimPrefix": {params: []kind{kindString, kindString}, result: kindString, call: onTwo(strings.TrimPrefix)},
	"trimSuffix": {params: []kind{kindString, kindString}, result: kindString, call: onTwo(strings.TrimSuffix)},
	"hasPrefix":  {params: []kind{kindString, kindString}, result: kindBool, call: onTwo(strings.HasPrefix)},
	"hasSuffix":  {params: []kind{kindString, kindString}, result: kindBool, call: onTwo(strings.HasSuffix)},
	"indexOf":    {params: []kind{kindString, kindString}, result: kindNumber, call: onTwo(indexOf)},
	"replace":    {params: []kind{kindString, kindString, kindString}, result: kindString, call: replace},
	"split":      {params: []kind{kindString, kindString}, result: kindList, call: split},
	"join":       {params: []kind{kindList, kindString}, optional: 1, result: kindString, call: join},
	"string":     {params: []kind{kindAny}, result: kindString, call: toText},
	"toBase64":   onString(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }),
	"toJSON":     {params: []kind{kindAny}, result: kindString, call: toJSON},
	"fromJSON":   {params: []kind{kindString}, call: fromJSON},

	"abs":   {params: []kind{kindNumber}, result: kindNumber, call: abs},
	"ceil":  {params: []kind{kindNumber}, result: kindNumber, call: rounded(apd.RoundCeiling)},
	"floor": {params: []kind{kindNumber}, result: kindNumber, call: rounded(apd.RoundFloor)},
	"round": {params: []kind{kindNumber, kindNumber}, optional: 1, result: kindNumber, call: rounded(apd.RoundHalfUp)},
	"int":   {params: []kind{kindAny}, result: kindNumber, call: toInt},
	"float": {params: []kind{kindAny}, result: kindNumber, call: toNumber}, // expr's name; exact all the same
	"min":   {params: []kind{kindAny}, variadic: true, call: extreme(-1)},
	"max":   {params: []kind{kindAny}, variadic: true, call: extreme(1)},

	"len":    {params: []kind{kindAny}, result: kindNumber, call: length},
	"first":  {params: []kind{kindList}, call: func(_ *Env, a []any) (any, error) { return at(a[0].([]any), 0), nil }},
	"last":   {params: []kind{kindList}, call: func(_ *Env, a []any) (any, error) { return at(a[0].([]any), -1), nil }},
	"concat": {params: []kind{kindList}, variadic: true, result: kindList, call: concat},
	"keys":   {params: []kind{kindObject}, result: kindList, call: keys},
	"get":    {params: []kind{kindAny, kindAny}, call: get},
}

func onString(f func(string) string) function {
	return function{params: []kind{kindString}, result: kindString, call: func(_ *Env, args []any) (any, error) {
		return f(args[0].(string)), nil
	}}
}

func onTwo[T any](f func(a, b string) T) func(*Env, []any) (any, error) {
	return func(_ *Env, args []any) (any, error) { return f(args[0].(string), args[1].(string)), nil }
}

func trim(_ *Env, args []any) (any, error) {
	if len(args) == 1 {
		return strings.TrimSpace(args[0].(string)), nil
	}
	return strings.Trim(args[0].(string), args[1].(string)), nil
}

// indexOf counts characters; -1 when there is none.
func indexOf(s, part string) int {
	i := strings.Index(s, part)
	if i < 0 {
		return i
	}
	return utf8.RuneCountInString(s[:i])
}

func replace(e *Env, args []any) (any, error) {
	s, before, after := args[0].(string), args[1].(string), args[2].(string)
	if err := e.spend(len(s) + strings.Count(s, before)*len(after)); err != nil {
		return nil, err
	}
	return strings.ReplaceAll(s, before, after), nil
}

func split(e *Env, args []any) (any, error) {
	s, separator := args[0].(string), args[1].(string)
	if err := e.spend((strings.Count(s, separator) + 1) * elementCost); err != nil {
		return nil, err
	}
	return listOrNull(strings.Split(s, separator)), nil
}

func join(e *Env, args []any) (any, error) {
	list, separator := args[0].([]any), ""
	if len(args) == 2 {
		separator = args[1].(string)
	}
	if err := e.spend(len(list) * (elementCost + len(separator))); err != nil {
		return nil, err
	}
	texts := make([]string, len(list))
	for i, v := range list {
		s, err := text(v)
		if err != nil {
			return nil, err
		}
		if err := e.spend(len(s)); err != nil {
			return nil, err
		}
		texts[i] = s
	}
	return strings.Join(texts, separator), nil
}

func toText(e *Env, args []any) (any, error) {
	if args[0] == nil {
		return nil, nil
	}
	s, err := text(args[0])
	if err != nil {
		return nil, err
	}
	return s, e.spend(len(s))
}

func toJSON(e *Env, args []any) (any, error) {
	b, err := appendJSON(nil, args[0])
	if err != nil {
		return nil, err
	}
	return string(b), e.spend(len(b))
}

func fromJSON(_ *Env, args []any) (any, error) {
	v, err := decodeJSON([]byte(args[0].(string)))
	if err != nil {
		return nil, fmt.Errorf("this is not valid JSON: %w", err)
	}
	return v, nil
}

func abs(e *Env, args []any) (any, error) {
	if i, ok := args[0].(int); ok && i >= 0 {
		return i, nil
	}
	d, err := e.decimal(args[0])
	if err != nil {
		return nil, err
	}
	return e.fromDecimal(d.Abs(d))
}

func rounded(way apd.Rounder) func(*Env, []any) (any, error) {
	return func(e *Env, args []any) (any, error) {
		digits := 0
		if len(args) == 2 {
			var err error
			if digits, err = e.index(args[1]); err != nil {
				return nil, err
			}
		}
		return e.round(args[0], digits, way)
	}
}

// toInt makes a whole number of a number or of a string that spells one; a fraction is cut off.
func toInt(e *Env, args []any) (any, error) {
	v, err := toNumber(e, args)
	if v == nil || err != nil {
		return nil, err
	}
	return e.round(v, 0, apd.RoundDown)
}

// toNumber makes a number of a string that spells one.
func toNumber(_ *Env, args []any) (any, error) {
	switch v := args[0].(type) {
	case nil, int, number:
		return v, nil
	case string:
		if n, err := decodeJSON([]byte(v)); err == nil && kindOf(n) == kindNumber {
			return n, nil
		}
		return nil, fmt.Errorf("%q is no number", abbreviate(v))
	default:
		return nil, fmt.Errorf("expected a number, found %s", kindOf(v))
	}
}

// extreme is the least (-1) or greatest (1) of its arguments or of a list, without nulls, as in SQL.
func extreme(sign int) func(*Env, []any) (any, error) {
	return func(e *Env, args []any) (any, error) {
		if list, ok := args[0].([]any); ok && len(args) == 1 {
			args = list
		}
		var best any
		for _, v := range args {
			if err := e.spend(elementCost); err != nil {
				return nil, err
			}
			if v == nil {
				continue
			}
			if best == nil {
				best = v
			}
			order, err := e.order(v, best)
			if err != nil {
				return nil, err
			}
			if order == sign {
				best = v
			}
		}
		return best, nil
	}
}

// sum adds the numbers of a list, without nulls, as in SQL; of none it is 0.
func sum(e *Env, args []any) (any, error) {
	var total any = 0
	for _, v := range args[0].([]any) {
		if v == nil {
			continue
		}
		if kindOf(v) != kindNumber {
			return nil, fmt.Errorf("sum needs numbers, found %s", kindOf(v))
		}
		var err error
		if total, err = e.arithmetic("+", total, v); err != nil {
			return nil, err
		}
		if err := e.spend(elementCost); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func length(e *Env, args []any) (any, error) {
	switch v := args[0].(type) {
	case nil:
		return nil, nil
	case string:
		return utf8.RuneCountInString(v), e.spend(len(v))
	case []any:
		return len(v), nil
	case map[string]any:
		return len(v), nil
	default:
		return nil, fmt.Errorf("expected a string, a list or an object, found %s", kindOf(v))
	}
}

// at is list[i], null outside.
func at(list []any, i int) any {
	if i < 0 {
		i += len(list)
	}
	if i < 0 || i >= len(list) {
		return nil
	}
	return list[i]
}

func concat(e *Env, args []any) (any, error) {
	all := []any{}
	for _, a := range args {
		if err := e.spend(len(a.([]any)) * elementCost); err != nil {
			return nil, err
		}
		all = append(all, a.([]any)...)
	}
	return all, nil
}

func keys(e *Env, args []any) (any, error) {
	object := args[0].(map[string]any)
	if err := e.spend(len(object) * elementCost); err != nil {
		return nil, err
	}
	return listOrNull(append([]string{}, slices.Sorted(maps.Keys(object))...)), nil
}

// get is a member, or null when there is none.
func get(e *Env, args []any) (any, error) {
	if args[0] == nil {
		return nil, nil
	}
	v, err := e.member(args[0], args[1])
	if errors.As(err, new(absentError)) {
		return nil, nil
	}
	return v, err
}
