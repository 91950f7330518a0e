// Package orders is Weir's example: an application that writes a change log (schema.sql), what is to happen about its
// changes (weir.yaml), and a receiver of the webhooks as one would write it (receiver.go). `weir demo` runs all three.
package orders

import _ "embed" // for the two files

// Config is weir.yaml.
//
//go:embed weir.yaml
var Config []byte

// Schema is schema.sql. It wants a database that `weir migrate up` has prepared, and may be applied again.
//
//go:embed schema.sql
var Schema string

// Paths of the receiver, as weir.yaml names them.
const (
	PathCreated   = "/orders/created"
	PathShipped   = "/orders/shipped"
	PathWarehouse = "/warehouse" // always answers 500
)
