package core

import "time"

// Served is a request that a front-end has answered.
type Served struct {
	Op     string // the protocol's name of the operation, "" if there is none
	Status int
	Sent   int64 // bytes of the response body
	Took   time.Duration

	// Of a read of a file, or of what is known of one: how it was come by, and the mount; else "".
	Cache CacheStatus
	Mount string
}
