package namespace

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// The options of a mount that may hold a secret are kept in the journal's store encrypted, by AES-256-GCM under a key of
// the process that never gets there. The mount's id and the option's name are authenticated with each, so that a value
// cannot be moved to a mount whose endpoint is another's.

// SecretKeySize is the length of Options.SecretKey in bytes.
const SecretKeySize = 32

// sealedPrefix marks an encrypted value: base64 of a nonce and the ciphertext follow.
const sealedPrefix = "sealed:v1:"

// sealer encrypts the secrets of mounts. The zero sealer has no key: it leaves them as they are.
type sealer struct{ aead cipher.AEAD }

// newSealer returns the sealer of a key of SecretKeySize bytes; nil: without a key.
func newSealer(key []byte) (sealer, error) {
	if key == nil {
		return sealer{}, nil
	}
	if len(key) != SecretKeySize {
		return sealer{}, errs.New("namespace.Open", "", errs.Invalid, fmt.Sprintf("the secret key has %d bytes, not %d", len(key), SecretKeySize))
	}
	own, err := hkdf.Key(sha256.New, key, nil, "sluice mount options", SecretKeySize)
	if err != nil {
		return sealer{}, err
	}
	block, err := aes.NewCipher(own)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCM(block)
	return sealer{aead}, err
}

func sealedFor(mount, option string) []byte { return []byte(mount + "\x00" + option) }

// seal returns the options of a mount as they are kept.
func (s sealer) seal(mount string, options map[string]string) map[string]string {
	if s.aead == nil {
		return options
	}
	kept := maps.Clone(options)
	for name, value := range kept {
		if slices.Contains(shownOptions, name) || strings.HasPrefix(value, sealedPrefix) { // not ours to read
			continue
		}
		nonce := make([]byte, s.aead.NonceSize())
		rand.Read(nonce)
		kept[name] = sealedPrefix + base64.StdEncoding.EncodeToString(s.aead.Seal(nonce, nonce, []byte(value), sealedFor(mount, name)))
	}
	return kept
}

// open returns the options of a mount as they were given. Errors: errs.Permission if the key is not the one they were
// sealed under.
func (s sealer) open(mount string, kept map[string]string) (map[string]string, error) {
	options := maps.Clone(kept)
	for name, value := range options {
		text, ok := strings.CutPrefix(value, sealedPrefix)
		if !ok || slices.Contains(shownOptions, name) {
			continue
		}
		wrong := errs.New("namespace.Open", mount, errs.Permission,
			"the option "+name+" was encrypted under another secret key; start with the key file that it was made with")
		if s.aead == nil {
			return nil, wrong
		}
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(b) < s.aead.NonceSize() {
			return nil, wrong
		}
		plain, err := s.aead.Open(nil, b[:s.aead.NonceSize()], b[s.aead.NonceSize():], sealedFor(mount, name))
		if err != nil {
			return nil, wrong
		}
		options[name] = string(plain)
	}
	return options, nil
}
