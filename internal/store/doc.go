// Package store is sqlc's output for db/queries and nothing else: change a query there and run `make generate`. Every
// method takes the connection or transaction as an argument. Positions are numbers (event.LSN converts), json and
// jsonb are their raw bytes.
package store
