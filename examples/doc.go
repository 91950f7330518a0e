// Package examples holds one small folder for each feature of Weir, and the test that runs them, README.md and docs/ as they
// stand: what people copy from there has been copied before.
package examples
