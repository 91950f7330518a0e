// Package capture turns the write-ahead log into changes, exactly once.
//
// # Who is authoritative
//
// Three places know how far the stream has been read: the slot (on the source), the checkpoint (in the database) and
// the reader's memory. The checkpoint is authoritative. The slot only says from where the server still keeps WAL; it
// is told nothing but what the checkpoint has stored. Memory is thrown away with each connection.
//
// # A stream's life
//
//	connecting --settle--> standby   (another worker has the slot; looked at four times a second)
//	standby    --free----> connecting (the slot is free: settle again, others do the same)
//	standby    --over----> standby   (the owner's time is up: its sessions are ended, and the slot becomes free)
//	connecting --settle--> streaming (START_REPLICATION succeeded: the slot is the mutex between workers)
//	streaming  --error---> connecting (backoff with jitter, for ever)
//	any        --SetupError--> Run returns: waiting does not cure it
//	connecting --settle--> recovering (the slot has lost something: recover.go) --done--> connecting, as from the start
//	connecting --settle--> gap (and the change log cannot make up for it) --weir accept-gap--> recovering
//	any        --pause---> paused (weir pause --stream: nobody has the slot; pause.go) --weir resume --stream--> as from the start
//
// Settling brings publication, slot and checkpoint into being, in this order, and compares them (judge): a checkpoint
// of another cluster or installation, or of a timeline that the source's does not come of, is refused; a slot that is gone, lost
// or ahead of the checkpoint is made up for.
//
// Until we have the slot, what was judged may change: somebody moves the slot, adopts the checkpoint, or lets the URL lead
// to another server. So the streaming connection says itself which server it is to, the epoch is taken only if it is the
// one that was judged, and the slot is read again once nobody else can move it. What differs leads back to judging.
//
// # Who may be replaced
//
// The slot keeps a second reader out, and the epoch keeps a late one from storing anything, so ending an owner is never
// needed for safety, only for the stream to go on (takeover.go). An owner writes down in weir.worker when its source last gave a
// sign of life (stream_at, by the database's clock). A standby ends it when that is older than source.lease less what the
// takeover takes, or when its row is gone. It must have seen the database up for long enough (MayBury) and must have looked at
// this owner without a break, or a server that stood still would make everybody dead. Sessions are known by application_name.
// One that is not of a worker which the checkpoint or weir.worker knows is a stranger's: nobody ends it. Who makes the slot,
// takes a snapshot or recovers counts as one that reads (keepsSlot). While the state is recovering nobody waits for the slot:
// others wait for the owner (recover.go, mayInterrupt).
//
//   - The owner is killed: the server closes its session, the slot is free.
//   - It is stopped: its sessions are ended, in the source and in the database, where it may hold the checkpoint's row. What it
//     had open is rolled back. When it goes on it finds closed connections, and its epoch overtaken.
//   - It is cut off: the same, and it gives its connections up itself when the source has given no sign of life for source.lease.
//   - It is back before others have noticed, and the server still has its old walsender: it ends that one, and the old session
//     that stored batches.
//   - Two standbys find the slot free at once: one of them gets it, START_REPLICATION fails for the other (55006).
//   - The new owner dies between slot and epoch: the next one finds the slot free.
//
// # A change's way
//
// One goroutine owns the replication connection (stream.go). It decodes messages (decode.go, row.go) into a batch
// (batch.go) and hands it to the committer (commit.go) over an unbuffered channel; while one batch commits the next is
// filled. A full batch that the committer does not take stops the reading, and TCP stops the server; the status
// messages go on, so the server does not give up on us.
//
// The committer's transaction advances the checkpoint by compare-and-swap on position and epoch, then lets the Sink
// record events and insert jobs. After its COMMIT the end of the last whole source transaction goes through an atomic
// to the goroutine on the connection, which confirms it to the server.
//
// # What happens when a step fails
//
//   - Before COMMIT: nothing has happened. The stream starts again from the checkpoint.
//   - The COMMIT's answer is lost: the checkpoint says whether it took place. The stream starts again from it.
//   - After COMMIT, before the confirmation: the server sends the transactions again; positions at or before the
//     checkpoint are skipped, in the middle of a transaction, too.
//   - The compare-and-swap changes no row: another worker has taken the epoch. Nothing is stored, we stand by.
//   - The database refuses the data: the batch is halved down to the culprit, which goes on as a change with a Reason.
//   - A heartbeat or keepalive never moves anything by itself: a heartbeat is a message in the stream, and the
//     position in a keepalive serves as a figure of lag only.
package capture
