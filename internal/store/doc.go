// Package store is sqlc's output for db/queries and nothing else: change a query there and run `make generate`. Every
// method takes the connection or transaction as an argument. Positions are numbers (event.LSN converts), days are UTC
// midnights, json and jsonb are their raw bytes.
//
// Connections need a mode of pgx in which the server describes the parameters (the default, or describe_exec and
// cache_describe behind a pooler): in the others a day would be sent as a time, and read in the session's time zone.
package store
