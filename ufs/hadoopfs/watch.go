package hadoopfs

import (
	"context"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Watcher is a Client that is told of changes in HDFS.
type Watcher interface {
	// Watch is ufs.Watcher's, but names are absolute paths of HDFS, without a slash at their end, whether a file or a directory is
	// meant; and it is never Blind.
	Watch(ctx context.Context, tell func(ufs.Change)) error
}

// Watch implements ufs.Watcher.
func (s *Store) Watch(ctx context.Context, tell func(ufs.Change)) error {
	w, ok := s.c.(Watcher)
	if !ok {
		return errs.New("hadoopfs.Watch", "", errs.Unsupported, "this protocol tells of no changes")
	}
	return w.Watch(ctx, func(c ufs.Change) {
		switch c.Kind {
		case ufs.Ready, ufs.Lost:
			tell(ufs.Change{Kind: c.Kind})
			return
		case ufs.Touched, ufs.Arrived, ufs.Blind, ufs.Left:
		}
		name, below := strings.CutPrefix(c.Name, s.root+"/")
		switch {
		case c.Name == s.root || strings.HasPrefix(s.root, c.Name+"/"): // the root itself, or what it lies in
			tell(ufs.Change{Kind: ufs.Lost})
		case !below || name == "" || strings.HasPrefix(name+"/", ufs.Staging):
		case c.Kind == ufs.Arrived:
			tell(ufs.Change{Kind: ufs.Touched, Name: name, At: c.At})
			tell(ufs.Change{Kind: ufs.Arrived, Name: name + "/", At: c.At})
		default:
			tell(ufs.Change{Kind: c.Kind, Name: name, At: c.At})
			tell(ufs.Change{Kind: c.Kind, Name: name + "/", At: c.At})
		}
	})
}

var _ ufs.Watcher = (*Store)(nil)
