// Package console is what people see in a browser: Weir's own pages and River UI, behind authentication, with a read-only mode.
package console
