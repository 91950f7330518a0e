// Package weir is the root of the module and holds no code: the programs are in cmd, the rooms of the worker in
// internal, and floors_test.go says which room may enter which.
package weir
