package ufs

import "errors"

// ErrUnsent is in the chain of a change's error if no request for the change has left for the store, or each was refused:
// it has not happened and will not happen late. Its absence says nothing.
var ErrUnsent = errors.New("the store could not be reached")
