// Package remote carries the interfaces of package core between processes: a Server answers for the namespace of the
// leading master, a worker's Switch for its pages, and a Client implements core.Namespace, Attrs, Uploads, Locator, Mounts and
// Authenticator for a gateway. It has no meaning of its own: what a call does is the namespace's affair, and the suite of
// both is core/nstest. It elects no leader and keeps no cache.
//
// # Names and bytes
//
// All calls but those that move bytes are tagged messages on one bidirectional gRPC stream per client, pipelined, many to a
// frame, flushed when the sender is idle. A file whose size is known and at most SmallWrite is such a message too: one call
// creates, writes and commits it, so that what would have failed at Create fails at Commit. Other bytes have a gRPC stream
// of their own for each reader and writer, on a connection beside that of the names, and HTTP/2's flow control.
//
// Where there are workers, the leader says what the bytes of a file are and signs tickets for them (core.Placer), and the
// client reads each block of them from the worker that owns it (cluster.Ring), the next owner if that one does not answer or
// falls silent, and from the leader if none does: the same version, from the byte on at which the last one stopped. A worker's
// page stream is no gRPC (serve_pages.go): its bytes go through a gateway without being looked at. A worker of the same
// machine lends its pages, if the two share a directory for sockets (serve_loans.go): a gateway then reads them where they lie, as
// a process that is both would.
//
// # Who may call
//
// A client speaks for the principals of its calls; a server believes it. So a server answers only peers that have shown a
// certificate that its tls.Config verifies (and ServerOptions.Authorize accepts). Without TLS it answers only peers on a
// loopback address, unless ServerOptions.TrustNetwork says that nobody else can reach the port.
//
// # Once
//
// A change carries {session, sequence}: the session is the Client's, the sequence that of its changes, and with it goes the
// acknowledged watermark, below which the client will not ask again. With each heartbeat it says which changes it has in
// progress, and will not ask for any other begun before it: a change that takes long keeps no room from the rest. A server remembers the answer of a change in its
// Answers. After a broken connection the client asks again under the same id, and the server answers from memory, waits for
// the change in progress, or makes it if it never arrived. A writer whose stream broke after Commit was sent asks for the
// outcome in the same way; if the Commit has not arrived by then it never takes place. A server that has lost the lead leaves
// what it cannot answer for certain to the next one.
//
// JournaledAnswers are those of the journal: the Tree writes the answer of a change into the record that makes it visible, so
// that whoever leads next has it, whatever became of the process that made the change. An id that is not there was not made,
// and is made then; one whose store has not said yet what became of it is waited for, some seconds. Their epoch is the
// session's: it changes only if the session was forgotten, ten minutes after its last stream or for want of room.
//
// MemoryAnswers are lost with their process. Across a change of epoch, reads, and changes that may be repeated (SetAttr,
// CopyPart, CompleteUpload, UpdateMount), are asked again; any other change that was sent and whose answer did not come fails
// with errs.Unavailable and may or may not have taken place.
//
// # Silence
//
// The client sends its clock every Heartbeat, and the server echoes it as long as its lease holds. A stream that has echoed
// nothing sent in the last Silence, by the client's clock, which counts while the machine is suspended, is given up: calls
// wait for another, for Patience at most, and then fail with errs.Unavailable. Bodies being read or written go on.
//
// A stream that ends cancels its calls on the server and aborts its writers before any Commit of them.
//
// # HTTP
//
// A Tunnel carries HTTP requests that any process was asked and only the leader, or one other process, can answer: those
// of the admin API. Who calls has been decided where the request came in, and a server believes that as it does a call's.
package remote

import (
	"time"

	"github.com/sluicefs/sluice/core"
)

// Tree is what a server offers and a client implements, beside core.Authenticator.
type Tree interface {
	core.Namespace
	core.Attrs
	core.Uploads
	core.Locator
	core.Mounts
	core.Buckets
	core.Tickets
}

// LeaderTree is what a leader's server offers: bytes may be read elsewhere.
type LeaderTree interface {
	Tree
	core.Placer
	core.Follower
}

// NotLeaderError is what ServerOptions.Lease returns if another master leads. The client goes there and asks again; the
// call has not been made.
type NotLeaderError struct {
	Leader string // the address of the leader's server, host:port; "" if it is not known
}

// Error names the leader.
func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "this master does not lead, and knows of none that does"
	}
	return "this master does not lead; " + e.Leader + " does"
}

// The default times and sizes.
const (
	// Heartbeat is the time between two echoes. It is an eighth of Silence, so that a lost packet does not end a stream.
	Heartbeat = 250 * time.Millisecond
	// Silence is how long a stream may echo nothing before it is given up.
	Silence = 2 * time.Second
	// Patience is how long a call waits while there is no stream to the leader.
	Patience = 5 * time.Second
	// StorePatience is how long a worker may wait for its store without a byte before another is asked, which may reach it.
	StorePatience = 10 * time.Second
	// SmallWrite is the greatest size in bytes of a file or part that is sent with its names.
	SmallWrite = 64 << 10
)

// A connection on which nothing has come for keepaliveTime is asked for a sign of life, and is dead without one after
// keepaliveTimeout: a machine that went away without a word holds readers and writers for no longer.
const (
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

/*
The messages, version 4. A frame is one gRPC message on Names: messages one after the other, each a length:uvarint and its
body. A body is a kind:byte and values as in coder.go.

	client to server                                     server to client
	'H' version session:16 bytes node…   hello, first    'W' version epoch                welcome, first
	'C' tag method:byte header values    a call          'A' tag (0 values | 1 fault)     its answer
	'X' tag                              cancels it      'L' tag leader:string            not made: another leads
	'P' clock below open…                heartbeat       'E' clock                        its echo
	                                                     'M' node…                        who is there, after changes

	header = flags deadline:uvarint? maxage:varint? request:string? principal:string (sequence acknowledged)?

The flags of a header say which of its optional values are there: deadline is the rest of it in microseconds, maxage seconds,
sequence and acknowledged belong to changes. Of the changes below that of a heartbeat, open are in progress. 'L' with tag 0 ends the stream.

The messages on Read and Write are one gRPC message each, a kind:byte and values, or bytes as they are:

	Read:  client 'O' header path range                  server 'O' info off n | 'L' leader | 'F' fault
	                                                            'B' bytes … until the stream ends | 'F' fault
	Write: client 'N' session:16 bytes header target     server 'O' | 'L' leader | 'F' fault
	              'B' bytes …                                   'F' fault, at any time, ends the stream
	              'C' header options                            'A' (0 info | 1 fault)
	              'X' (abort)                                   'A' (0 | 1 fault)
	       target = 'f' path createoptions | 'p' path id number size

Forward carries an HTTP request. The request is made once 'G' has come, which the client says to one process only:

	client 'O' header flags method:string uri:string list of field length:varint     server 'O' | 'L' leader | 'F' fault
	       'G', then the body, 'B' bytes …, until the client ends its side
	                                                        'A' status:varint list of field, 'B' bytes … | 'F' fault
	field = name:string value:string
*/
const (
	version = 4

	kindHello, kindCall, kindCancel, kindPing     byte = 'H', 'C', 'X', 'P'
	kindWelcome, kindAnswer, kindLeader, kindEcho byte = 'W', 'A', 'L', 'E'
	kindNodes                                     byte = 'M'
	kindOpen, kindBytes, kindFault, kindNew       byte = 'O', 'B', 'F', 'N'
	kindCommit, kindAbort, targetFile, targetPart byte = 'C', 'X', 'f', 'p'
	kindGo                                        byte = 'G'
	outcomeValues, outcomeFault                   byte = 0, 1
)

const (
	// chunk is how many bytes one message on Read or Write carries: large enough that the cost of a message is small beside
	// that of its bytes, small enough that a slow stream holds little.
	chunk = 256 << 10
	// maxMessage bounds one message of a frame, and so the arguments and the answer of a call: the 10,000 parts of an
	// upload, with ETags and checksums, take less than half of it.
	maxMessage = 4 << 20
	// maxFrame bounds a gRPC message: a full outbox and one message that finds it not yet full.
	maxFrame = 2*outboxLimit + maxMessage + 64
	// outboxLimit is how many bytes wait to be sent on a stream before what adds to them waits. What cannot wait may add as
	// much again.
	outboxLimit = 4 << 20
	// pageEntries and pageBytes bound a page of a listing.
	pageEntries, pageBytes = 1000, 256 << 10
	// maxCalls bounds the calls of one stream that are in progress at the server.
	maxCalls = 8192
	// streamWindow and connWindow are HTTP/2's windows in bytes: what one stream, and all of a connection, may have in
	// flight. 1 MiB for a stream is 8 Gbit/s at a round trip of 1 ms.
	streamWindow, connWindow = 1 << 20, 16 << 20
)
