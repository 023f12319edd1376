package hold

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// A leader that was paused may go on after another one leads, and tell a worker to release what its successor has since had copied to it.
// So a store remembers of each life the last reign that it has heard of, in the file of that name, and takes nothing from one before it.
// A power failure keeps it too: it is synced before what the new reign has held is.

// maxReigns bounds the lives that are remembered: a journal enters another one when it is restored.
const maxReigns = 64

// reignsMagic begins the file of reigns.
const reignsMagic = "SLT1"

// reigns are the last reigns that were heard of, of one life each, the latest at the end. It is never changed, but replaced.
type reigns []core.Reign

// last returns the term of the last reign of r's life, 0 if there was none.
func (all reigns) last(r core.Reign) uint64 {
	for _, x := range all {
		if x.Life == r.Life {
			return x.Term
		}
	}
	return 0
}

// with returns all with r as the last reign of its life.
func (all reigns) with(r core.Reign) reigns {
	next := slices.DeleteFunc(slices.Clone(all), func(x core.Reign) bool { return x.Life == r.Life })
	next = append(next, r)
	return next[max(0, len(next)-maxReigns):]
}

func (all reigns) encode() []byte {
	b := []byte(reignsMagic)
	for _, r := range all {
		b = binary.LittleEndian.AppendUint64(append(b, r.Life[:]...), r.Term)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// decodeReigns returns what a file has. ok is false if it is damaged.
func decodeReigns(b []byte) (all reigns, ok bool) {
	n := len(b) - 4
	if n < len(reignsMagic) || (n-len(reignsMagic))%16 != 0 || string(b[:len(reignsMagic)]) != reignsMagic ||
		binary.LittleEndian.Uint32(b[n:]) != crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)) {
		return nil, false
	}
	for b = b[len(reignsMagic):n]; len(b) > 0; b = b[16:] {
		all = append(all, core.Reign{Life: [8]byte(b[:8]), Term: binary.LittleEndian.Uint64(b[8:])})
	}
	return all, true
}

// recoverReigns reads the file of reigns. What is damaged is as if no reign had been heard of: the next to call is remembered.
func (s *Store) recoverReigns() error {
	b, err := os.ReadFile(filepath.Join(s.dir, reignsName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	all, ok := decodeReigns(b)
	if !ok {
		s.log.Error("who has led last is damaged on the disk; it is learnt again", "file", filepath.Join(s.dir, reignsName))
	}
	s.reigns, s.kept = all, all
	return nil
}

// succeeded returns an error if a later reign than that of ctx has been heard of. mu must be held.
func (s *Store) succeeded(ctx context.Context) error {
	r := core.ReignOf(ctx)
	if last := s.reigns.last(r); r.Term < last {
		return errs.New("hold", s.dir, errs.Conflict, fmt.Sprintf(
			"the master that asks led in term %d, and another one has led since (term %d): it decides what is held", r.Term, last))
	}
	return nil
}

// hear notes the reign of ctx: from now on nothing is taken from those before it, and once hear has succeeded, not after a restart
// either. An earlier reign is not heard.
func (s *Store) hear(ctx context.Context) error {
	r := core.ReignOf(ctx)
	s.mu.Lock()
	if s.closed || s.kept.last(r) >= r.Term {
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	s.keeping.Lock()
	defer s.keeping.Unlock()
	s.mu.Lock()
	if s.reigns.last(r) < r.Term {
		s.reigns = s.reigns.with(r)
	}
	all, kept, closed := s.reigns, s.kept.last(r) >= r.Term, s.closed
	s.mu.Unlock()
	if kept || closed {
		return nil
	}
	if err := s.keep(all); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = all
	return nil
}

// heard is hear of a call that is answered all the same where the disk does not take the reign.
func (s *Store) heard(ctx context.Context) {
	if err := s.hear(ctx); err != nil {
		s.log.Warn("who leads now cannot be written down; it is known until this process ends", "dir", s.dir, "err", err)
	}
}

// keep makes all what the file of reigns has. keeping must be held.
func (s *Store) keep(all reigns) (err error) {
	path := filepath.Join(s.dir, reignsName)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = s.dev.pwrite(f, [][]byte{all.encode()}, 0); err == nil {
		err = s.dev.sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = s.dev.syncDir(s.names)
	}
	return err
}
