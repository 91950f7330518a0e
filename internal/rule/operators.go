package rule

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
)

// function is what an operator or a function of the language calls.
type function struct {
	params   []kind // an argument that is null makes the result null, as in SQL, unless its parameter is kindAny
	optional int    // how many of params may be missing, at the end
	variadic bool   // the last of params may be repeated
	result   kind
	call     func(e *Env, args []any) (any, error)
}

// Names of operators that are not written as in the language. The space keeps them out of its reach.
const (
	opField   = "event field"
	opKey     = "data key"
	opMember  = "member of"
	opMaybe   = "member of?"
	opChain   = "end of chain"
	opSlice   = "slice of"
	opBool    = "to bool"
	opList    = "to list"
	opStep    = "step of loop"
	opSum     = "sum of"
	opMatches = "matches pattern"
)

// operators are called by what the translator makes of an expression.
var operators = map[string]function{
	opField: one(kindAny, func(e *Env, name any) (any, error) { return e.field(name.(string)) }),
	opKey:   one(kindAny, func(e *Env, name any) (any, error) { return e.key(name.(string)) }),
	opChain: one(kindAny, func(_ *Env, v any) (any, error) { return endChain(v), nil }),
	opBool:  one(kindBool, func(_ *Env, v any) (any, error) { return toBool(v) }),
	opList:  one(kindList, func(_ *Env, v any) (any, error) { return toList(v) }),
	opStep:  one(kindAny, func(e *Env, v any) (any, error) { return v, e.spend(stepCost) }),
	opSum:   {params: []kind{kindList}, result: kindNumber, call: sum},

	opMember: two(kindAny, (*Env).member),
	opMaybe:  two(kindAny, (*Env).maybe),
	opSlice: {params: []kind{kindAny, kindAny, kindAny}, call: func(e *Env, a []any) (any, error) {
		return e.slice(a[0], a[1], a[2])
	}},

	"==": two(kindBool, func(e *Env, a, b any) (any, error) { return e.equal(a, b) }),
	"!=": two(kindBool, func(e *Env, a, b any) (any, error) {
		same, err := e.equal(a, b)
		return !same, err
	}),
	"<":  comparison(func(order int) bool { return order < 0 }),
	"<=": comparison(func(order int) bool { return order <= 0 }),
	">":  comparison(func(order int) bool { return order > 0 }),
	">=": comparison(func(order int) bool { return order >= 0 }),
	"in": two(kindBool, (*Env).in),

	"+":  two(kindAny, (*Env).add),
	"-":  arithmetic("-"),
	"*":  arithmetic("*"),
	"/":  arithmetic("/"),
	"%":  arithmetic("%"),
	"**": arithmetic("**"),
	"+x": {params: []kind{kindNumber}, result: kindNumber, call: func(_ *Env, a []any) (any, error) { return a[0], nil }},
	"-x": {params: []kind{kindNumber}, result: kindNumber, call: func(e *Env, a []any) (any, error) {
		return e.arithmetic("-", 0, a[0])
	}},
	"..": {params: []kind{kindNumber, kindNumber}, result: kindList, call: spread},

	opMatches: two(kindBool, func(e *Env, s, pattern any) (any, error) {
		return e.search("matches", s, "", func(s, _ string) bool { return pattern.(*regexp.Regexp).MatchString(s) })
	}),
	"contains":   search("contains", strings.Contains),
	"startsWith": search("startsWith", strings.HasPrefix),
	"endsWith":   search("endsWith", strings.HasSuffix),
}

// one makes an operator of a value of any kind, null too.
func one(result kind, f func(e *Env, v any) (any, error)) function {
	return function{params: []kind{kindAny}, result: result, call: func(e *Env, a []any) (any, error) {
		return f(e, a[0])
	}}
}

// two makes an operator of two values of any kind, null too.
func two(result kind, f func(e *Env, a, b any) (any, error)) function {
	return function{params: []kind{kindAny, kindAny}, result: result, call: func(e *Env, a []any) (any, error) {
		return f(e, a[0], a[1])
	}}
}

// builtin is the function as expr's compiler and machine want it. Its first argument is the Env.
func (f function) builtin(name string) *builtin.Function {
	return &builtin.Function{Name: name, Func: func(args ...any) (any, error) {
		return f.invoke(args[0].(*Env), args[1:])
	}}
}

func (f function) invoke(e *Env, args []any) (any, error) {
	for i, a := range args {
		want := f.param(i)
		if want == kindAny {
			continue
		}
		if a == nil {
			return nil, nil
		}
		if found := kindOf(a); found != want {
			return nil, fmt.Errorf("expected %s, found %s", want, found)
		}
		if s, ok := a.(string); ok {
			if err := e.spend(len(s)); err != nil {
				return nil, err
			}
		}
	}
	return f.call(e, args)
}

// param is the kind of the i-th argument.
func (f function) param(i int) kind { return f.params[min(i, len(f.params)-1)] }

func (f function) checkCount(n int) error {
	least, most := len(f.params)-f.optional, len(f.params)
	switch {
	case n < least:
		return fmt.Errorf("needs at least %d arguments, found %d", least, n)
	case n > most && !f.variadic:
		return fmt.Errorf("takes at most %d arguments, found %d", most, n)
	default:
		return nil
	}
}

// typed tells expr's compiler what it need not look at again.
func typed(n ast.Node, k kind) ast.Node {
	switch k {
	case kindBool:
		n.SetType(reflect.TypeFor[bool]())
	case kindList:
		n.SetType(reflect.TypeFor[[]any]())
	default:
	}
	return n
}

// comparison is < and the like: false with null, as in SQL.
func comparison(holds func(order int) bool) function {
	return two(kindBool, func(e *Env, a, b any) (any, error) {
		if a == nil || b == nil {
			return false, nil
		}
		order, err := e.order(a, b)
		return err == nil && holds(order), err
	})
}

func arithmetic(op string) function {
	return function{params: []kind{kindNumber, kindNumber}, result: kindNumber, call: func(e *Env, a []any) (any, error) {
		return e.arithmetic(op, a[0], a[1])
	}}
}

func checkAdd(x, y kind) error {
	for _, k := range []kind{x, y} {
		if k != kindAny && k != kindNull && k != kindNumber && k != kindString {
			return fmt.Errorf("+ adds numbers or joins strings, found %s", k)
		}
	}
	if x != y && x != kindAny && y != kindAny && x != kindNull && y != kindNull {
		return fmt.Errorf("cannot add %s and %s: string(x) makes a string", x, y)
	}
	return nil
}

func (e *Env) add(a, b any) (any, error) {
	if err := checkAdd(kindOf(a), kindOf(b)); err != nil {
		return nil, err
	}
	if a == nil || b == nil {
		return nil, nil
	}
	s, ok := a.(string)
	if !ok {
		return e.arithmetic("+", a, b)
	}
	t := b.(string)
	if err := e.spend(len(s) + len(t)); err != nil {
		return nil, err
	}
	return s + t, nil
}

func search(name string, found func(s, part string) bool) function {
	return two(kindBool, func(e *Env, a, b any) (any, error) { return e.search(name, a, b, found) })
}

// search looks for a part in a string: false with null, like a comparison.
func (e *Env) search(name string, a, b any, found func(s, part string) bool) (any, error) {
	if a == nil || b == nil {
		return false, nil
	}
	s, ok1 := a.(string)
	part, ok2 := b.(string)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%s needs strings, found %s and %s", name, kindOf(a), kindOf(b))
	}
	if err := e.spend(len(s) + len(part)); err != nil {
		return nil, err
	}
	return found(s, part), nil
}

// in looks for an element in a list, or a key in an object; with null in its place the answer is false.
func (e *Env) in(a, b any) (any, error) {
	switch b := b.(type) {
	case nil:
		return false, nil
	case []any:
		for _, element := range b {
			if err := e.spend(elementCost); err != nil {
				return nil, err
			}
			if same, err := e.equal(a, element); same || err != nil {
				return same, err
			}
		}
		return false, nil
	case map[string]any:
		name, ok := a.(string)
		if !ok {
			return nil, fmt.Errorf("the key of an object is a string, found %s", kindOf(a))
		}
		_, ok = b[name]
		return ok, nil
	default:
		return nil, fmt.Errorf("in needs a list, found %s; in a string, write contains", kindOf(b))
	}
}

// chainEnd is what ?. gives on null: the rest of the chain is not evaluated.
type chainEnd struct{}

func endChain(v any) any {
	if v == (chainEnd{}) {
		return nil
	}
	return v
}

// maybe is ?. : null when the left side is null or has no such member.
func (e *Env) maybe(base, property any) (any, error) {
	if base == nil || base == (chainEnd{}) {
		return chainEnd{}, nil
	}
	v, err := e.member(base, property)
	if errors.As(err, new(absentError)) {
		return nil, nil
	}
	return v, err
}

// absentError says that a value has no such member. Where that is no error, its message is never made.
type absentError struct{ message func() string }

// Error names the member.
func (e absentError) Error() string { return e.message() }

func (e *Env) member(base, property any) (any, error) {
	switch base := base.(type) {
	case chainEnd:
		return base, nil
	case map[string]any:
		return member(base, property)
	case []any:
		return e.element(base, property)
	case nil:
		return nil, fmt.Errorf("this is null and has no %s; ?. gives null instead", describe(property))
	default:
		return nil, fmt.Errorf("this is %s and has no %s", kindOf(base), describe(property))
	}
}

func member(object map[string]any, property any) (any, error) {
	name, ok := property.(string)
	if !ok {
		return nil, fmt.Errorf("the key of an object is a string, found %s", kindOf(property))
	}
	if v, ok := object[name]; ok {
		return v, nil
	}
	return nil, absentError{func() string {
		return fmt.Sprintf("there is no key %q%s; ?. gives null instead", name, suggestion(name, object, nil))
	}}
}

// element is list[i]; a negative index counts from the end.
func (e *Env) element(list []any, property any) (any, error) {
	if kindOf(property) != kindNumber {
		return nil, fmt.Errorf("the index of a list is a number, found %s", kindOf(property))
	}
	i, err := e.index(property)
	if err != nil {
		return nil, err
	}
	if i < 0 {
		i += len(list)
	}
	if i < 0 || i >= len(list) {
		return nil, absentError{func() string {
			return fmt.Sprintf("the list has %d elements and none at %v; ?. gives null instead", len(list), property)
		}}
	}
	return list[i], nil
}

func describe(property any) string {
	if s, ok := property.(string); ok {
		return fmt.Sprintf("key %q", s)
	}
	return fmt.Sprintf("element %v", property)
}

// slice is x[from:to] of a list, or of a string by characters; bounds outside are moved inside.
func (e *Env) slice(base, from, to any) (any, error) {
	switch base := base.(type) {
	case nil:
		return nil, nil
	case chainEnd:
		return base, nil
	case string:
		if err := e.spend(len(base) * 4); err != nil {
			return nil, err
		}
		runes := []rune(base)
		i, j, err := e.bounds(from, to, len(runes))
		return string(runes[i:j]), err
	case []any:
		i, j, err := e.bounds(from, to, len(base))
		return base[i:j:j], err
	default:
		return nil, fmt.Errorf("only a string or a list has parts, found %s", kindOf(base))
	}
}

func (e *Env) bounds(from, to any, length int) (i, j int, err error) {
	bound := func(v any, missing int) int {
		if v == nil || err != nil {
			return missing
		}
		if kindOf(v) != kindNumber {
			err = fmt.Errorf("a bound is a number, found %s", kindOf(v))
			return missing
		}
		var n int
		n, err = e.index(v)
		if n < 0 {
			n += length
		}
		return min(max(n, 0), length)
	}
	i, j = bound(from, 0), bound(to, length)
	return i, max(i, j), err
}

func toBool(v any) (any, error) {
	if b, ok := v.(bool); ok {
		return b, nil
	}
	return nil, fmt.Errorf("expected true or false, found %s: compare it, as in x == true", kindOf(v))
}

func toList(v any) (any, error) {
	if list, ok := v.([]any); ok {
		return list, nil
	}
	return nil, fmt.Errorf("expected a list, found %s; x ?? [] gives an empty one for null", kindOf(v))
}

const maxSpread = 10_000

// spread is from..to, both included.
func spread(e *Env, args []any) (any, error) {
	from, err := e.index(args[0])
	if err != nil {
		return nil, err
	}
	to, err := e.index(args[1])
	if err != nil {
		return nil, err
	}
	if to < from {
		return []any{}, nil
	}
	n := uint(to) - uint(from) + 1 // exact modulo 2^64, as to >= from
	if n == 0 || n > maxSpread {
		return nil, fmt.Errorf("a list made with .. has at most %d elements", maxSpread)
	}
	list := make([]any, n)
	for i := range list {
		list[i] = from + i
	}
	return list, e.spend(len(list) * elementCost)
}
