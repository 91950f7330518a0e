package rule

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cockroachdb/apd/v3"
)

// number is a number that is no int. It keeps the text it was written with: 100.10 stays 100.10. The text is a JSON
// number.
type number struct{ text string }

func (n number) String() string { return n.text }

// exactNumber makes a number of a JSON number's text.
func exactNumber(text string) any {
	if i, err := strconv.Atoi(text); err == nil && text != "-0" {
		return i
	}
	return number{text}
}

// negative is -n with the same digits.
func negative(n number) any {
	if text, ok := strings.CutPrefix(n.text, "-"); ok {
		return exactNumber(text)
	}
	return exactNumber("-" + n.text)
}

const (
	// maxDigits bounds what is computed with. PostgreSQL's numeric has at most 131072 digits before the point and 16383
	// after it. Numbers that are only passed on have no limit.
	maxDigits = 150_000
	// quotientDigits is the least number of digits that a division gives.
	quotientDigits = 40
)

// decimal prepares a number for computing.
func (e *Env) decimal(v any) (*apd.Decimal, error) {
	n, ok := v.(number)
	if !ok {
		return apd.New(int64(v.(int)), 0), nil
	}
	exponent := 0
	mantissa, suffix, scientific := strings.Cut(strings.ToLower(n.text), "e")
	if scientific {
		var err error
		if exponent, err = strconv.Atoi(suffix); err != nil || exponent > maxDigits || exponent < -maxDigits {
			return nil, fmt.Errorf("the number %s is too large or too small to compute with", abbreviate(n.text))
		}
	}
	if len(mantissa) > maxDigits {
		return nil, fmt.Errorf("the number %s has too many digits to compute with", abbreviate(n.text))
	}
	// Aligning two numbers writes their exponents out, so an exponent costs as much as digits.
	if err := e.spend(decimalCost + len(mantissa) + max(exponent, -exponent)); err != nil {
		return nil, err
	}
	d, _, err := apd.NewFromString(n.text)
	if err != nil {
		return nil, fmt.Errorf("the number %s cannot be computed with: %w", abbreviate(n.text), err)
	}
	return d, nil
}

func (e *Env) decimals(a, b any) (x, y *apd.Decimal, err error) {
	if x, err = e.decimal(a); err != nil {
		return nil, nil, err
	}
	y, err = e.decimal(b)
	return x, y, err
}

// fromDecimal is the result of a computation: an int if it is one, else its digits, trailing zeros of the fraction
// included, as PostgreSQL keeps them.
func (e *Env) fromDecimal(d *apd.Decimal) (any, error) {
	if d.Form != apd.Finite {
		return nil, errors.New("the result is not a number")
	}
	size := d.NumDigits() + max(int64(d.Exponent), -int64(d.Exponent))
	if size > maxDigits {
		return nil, errors.New("the result has too many digits")
	}
	if err := e.spend(int(size)); err != nil {
		return nil, err
	}
	if d.IsZero() {
		d.Negative = false
	}
	return exactNumber(d.Text('f')), nil
}

// compareNumbers is -1, 0 or 1. Both are numbers.
func (e *Env) compareNumbers(a, b any) (int, error) {
	i, ok1 := a.(int)
	j, ok2 := b.(int)
	if ok1 && ok2 {
		switch {
		case i < j:
			return -1, nil
		case i > j:
			return 1, nil
		default:
			return 0, nil
		}
	}
	if a == b { // the same digits
		return 0, nil
	}
	x, y, err := e.decimals(a, b)
	if err != nil {
		return 0, err
	}
	return x.Cmp(y), nil
}

// arithmetic computes a op b exactly; a quotient is rounded after quotientDigits digits at least.
func (e *Env) arithmetic(op string, a, b any) (any, error) {
	x, y, err := e.decimals(a, b)
	if err != nil {
		return nil, err
	}
	result := new(apd.Decimal)
	exact := apd.BaseContext
	switch op {
	case "+":
		_, err = exact.Add(result, x, y)
	case "-":
		_, err = exact.Sub(result, x, y)
	case "*":
		_, err = exact.Mul(result, x, y)
	case "/":
		err = quotient(result, x, y)
	case "%":
		if y.IsZero() {
			return nil, errDivisionByZero
		}
		_, err = exact.WithPrecision(2*maxDigits).Rem(result, x, y)
	case "**":
		return e.power(x, y)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be computed: %w", op, err)
	}
	return e.fromDecimal(result)
}

var errDivisionByZero = errors.New("division by zero")

func quotient(result, x, y *apd.Decimal) error {
	if y.IsZero() {
		return errDivisionByZero
	}
	digits := max(quotientDigits, x.NumDigits()+y.NumDigits()+quotientDigits/2)
	c := apd.BaseContext.WithPrecision(uint32(min(digits, maxDigits)))
	c.Rounding = apd.RoundHalfUp
	if _, err := c.Quo(result, x, y); err != nil {
		return err
	}
	result.Reduce(result) // Quo fills up with zeros
	return nil
}

// maxPower bounds the exponent of **.
const maxPower = 1000

func (e *Env) power(x, y *apd.Decimal) (any, error) {
	n, err := y.Int64()
	if err != nil || n > maxPower || n < -maxPower {
		return nil, fmt.Errorf("the exponent of ** must be a whole number between -%d and %d", maxPower, maxPower)
	}
	result := apd.New(1, 0)
	for range max(n, -n) {
		if _, err := apd.BaseContext.Mul(result, result, x); err != nil {
			return nil, err
		}
		if err := e.spend(int(result.NumDigits())); err != nil {
			return nil, err
		}
		if result.NumDigits() > maxDigits {
			return nil, errors.New("the result has too many digits")
		}
	}
	if n < 0 {
		if err := quotient(result, apd.New(1, 0), result); err != nil {
			return nil, err
		}
	}
	return e.fromDecimal(result)
}

// round rounds to a number of digits after the point, halves away from zero as PostgreSQL's numeric does unless
// another way is given.
func (e *Env) round(v any, digits int, way apd.Rounder) (any, error) {
	if _, ok := v.(int); ok && digits >= 0 {
		return v, nil
	}
	x, err := e.decimal(v)
	if err != nil {
		return nil, err
	}
	if digits > maxPower || digits < -maxPower {
		return nil, fmt.Errorf("round to between -%d and %d digits", maxPower, maxPower)
	}
	c := apd.BaseContext.WithPrecision(2 * maxDigits)
	c.Rounding = way
	result := new(apd.Decimal)
	if _, err := c.Quantize(result, x, -int32(digits)); err != nil {
		return nil, fmt.Errorf("the number cannot be rounded: %w", err)
	}
	return e.fromDecimal(result)
}

// index is a number as an index or a count: an int, or a number without a fraction.
func (e *Env) index(v any) (int, error) {
	if i, ok := v.(int); ok {
		return i, nil
	}
	d, err := e.decimal(v)
	if err != nil {
		return 0, err
	}
	i, err := d.Int64()
	if err != nil {
		return 0, fmt.Errorf("%s is no whole number", abbreviate(v.(number).text))
	}
	return int(i), nil
}
