package web

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"sync"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Uploads are the multipart uploads that this process has begun in stores of one kind, which have none of their own: an upload there is a
// note that the driver stages, and what it keeps of the parts. Each is known by the root of its store and its id, so that CleanStaging
// also leaves that of another Store of the same root, such as a mount whose options have changed. The zero value has none; it is safe
// for concurrent use.
type Uploads struct{ begun sync.Map }

// note is what Begin was given.
type note struct {
	Name []byte   `json:"name"` // any bytes
	Attr ufs.Attr `json:"attr"`
}

// Begin begins an upload to name and returns its id. put stages the text of its note.
func (u *Uploads) Begin(op, root, name string, attr ufs.Attr, put func(id, text string) error) (id string, err error) {
	b, err := json.Marshal(note{[]byte(name), attr})
	if err != nil {
		return "", errs.E(op, name, errs.Invalid, err)
	}
	id = rand.Text()
	u.begun.Store(root+id, true) // before somebody finds the note
	if err := put(id, string(b)); err != nil {
		u.End(root, id)
		return "", err
	}
	return id, nil
}

// Has reports whether this process has begun the upload and not ended it.
func (u *Uploads) Has(root, id string) bool {
	_, ok := u.begun.Load(root + id)
	return ok
}

// End forgets an upload.
func (u *Uploads) End(root, id string) { u.begun.Delete(root + id) }

// NoUpload is the error of an id that no upload to name has.
func NoUpload(op, name string) error { return errs.New(op, name, errs.NotExist, "no such upload") }

// ReadNote returns what Begin was given for an upload to name, from the text of its note and the error of getting it, errs.NotExist if
// there is none. Errors: NoUpload; errs.Corrupt; err.
func ReadNote(op, name, text string, err error) (ufs.Attr, error) {
	if errors.Is(err, errs.NotExist) {
		return ufs.Attr{}, NoUpload(op, name)
	}
	if err != nil {
		return ufs.Attr{}, err
	}
	var n note
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		return ufs.Attr{}, errs.E(op, name, errs.Corrupt, err)
	}
	if string(n.Name) != name {
		return ufs.Attr{}, NoUpload(op, name)
	}
	return n.Attr, nil
}
