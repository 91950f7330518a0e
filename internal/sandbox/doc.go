// Package sandbox gives private servers that are started, used and thrown away: for tests, the demo, benchmarks and
// chaos. It does not import testing, so that commands can use it, too.
//
// # A server's life
//
// StartPostgres makes a folder in the temporary directory, runs initdb in it and starts postgres as a direct child of
// this process. The binaries come from the library embedded-postgres (downloaded once, kept per user and version) or,
// where that is refused, from an installation on the machine. PostgreSQL refuses to run as root: under root the
// server, its folder and its watchdog belong to the user postgres, or nobody.
//
// # Nothing is left behind
//
//   - Stop ends the server and removes the folder.
//   - If this process dies, even by SIGKILL, the watchdog does the same: a shell that reads process ids from a pipe
//     whose only writer is this process. The end of the pipe means that we are gone (watchdog.go). Pdeathsig would
//     not do: it fires when the *thread* that started the child ends, and it does not exist outside Linux.
//   - If the watchdog dies, too (power failure, a killed container), the next start removes the folder: its lock,
//     held by the owner, is free then. A postgres that should still run notices the missing folder within a minute.
//
// # Elasticsearch
//
// StartElasticsearch runs the real one in the same way. Its distribution is downloaded once, checked against the SHA-256 that
// stands here, and unpacked into the folder that the test processes of this user share, under its lock and by rename. It
// refuses root, too. Its launcher starts the server as a child: signals, and the watchdog's, go to the group of both.
//
// # Somebody else's server
//
// With DATABASE_URL set, Open uses that server. Only databases that this package has created there, with random names
// beginning with weir_, are ever changed or dropped. StartPostgres ignores the variable: tests that crash servers own
// theirs.
package sandbox
