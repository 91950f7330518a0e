// Package rule compiles and evaluates conditions and templates over an event.
//
// Both are written in one language, that of github.com/expr-lang/expr, which parses, compiles and runs them. Between
// parsing and compiling, every name, member access, operator and function is replaced by a call of ours (compile.go),
// because the meaning differs in what matters here:
//
//   - Numbers are exact: an integer is an int, everything else keeps the digits it was written with and is computed
//     with as a decimal. No value is ever a float64.
//   - A name is a field of the event, or else a key of its data. A key that is absent is an error, with a suggestion: a
//     typing mistake must not look like "no match". has_field asks without failing, ?. and get give null.
//   - null equals only null, and is neither less nor greater than anything, as in SQL. Arithmetic with null is null.
//     Where true or false is needed, null is an error.
//   - A number never equals a string. Any other comparison of two types is an error.
//
// Nothing in the language reads a clock, a file or the environment, and what one evaluation may cost is limited (see
// Env), so that no expression and no event can hold up the stream.
//
// A Template puts values into text. How a value is written depends on the place: Text, JSON, URL, Header, HTML, Slack.
// There is one pass: a value that looks like a placeholder, a quote or a line break stays a value.
package rule
