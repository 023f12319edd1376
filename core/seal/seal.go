// Package seal is what the processes that share the secret key hide from others (the secrets of mounts) and prove to each
// other (tickets for the bytes of a file, calls to a worker). The key itself is a file of the operator's on masters and workers; it is never
// sent or kept anywhere else, and gateways do not have it. The package keeps no state and does no I/O.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"github.com/sluicefs/sluice/core/errs"
)

// KeySize is the length of the secret key in bytes.
const KeySize = 32

// Sealer seals under one secret key, with a key of its own for each purpose. A nil Sealer has no key: it leaves options as
// they are, and signs nothing. It is safe for concurrent use.
type Sealer struct {
	aead    cipher.AEAD // of options
	tickets []byte      // signs tickets
	calls   []byte      // signs calls
}

// New returns the sealer of a key of KeySize bytes, nil for a nil key. Errors: errs.Invalid.
func New(key []byte) (*Sealer, error) {
	if key == nil {
		return nil, nil
	}
	if len(key) != KeySize {
		return nil, errs.New("seal.New", "", errs.Invalid, fmt.Sprintf("the secret key has %d bytes, not %d", len(key), KeySize))
	}
	options, err := derive(key, "sluice mount options")
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(options)
	if err != nil {
		return nil, err
	}
	s := &Sealer{}
	if s.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	if s.tickets, err = derive(key, "sluice tickets"); err != nil {
		return nil, err
	}
	s.calls, err = derive(key, "sluice calls")
	return s, err
}

func derive(key []byte, purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, key, nil, purpose, KeySize)
}
