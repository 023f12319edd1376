package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync"
)

const (
	keySize       = sha256.Size
	signatureSize = 2 * sha256.Size // in hex

	// keysPerGeneration bounds the cache to twice as many keys, about 400 B each. A key serves for one day.
	keysPerGeneration = 1024
)

// deriveKey returns the key that signs everything within a scope.
func deriveKey(secret, date, region, service string) [keySize]byte {
	k := mac([]byte("AWS4"+secret), []byte(date))
	k = mac(k[:], []byte(region))
	k = mac(k[:], []byte(service))
	return mac(k[:], []byte(terminal))
}

// signature returns the signature of a string to sign, in hex.
func signature(key *[keySize]byte, toSign []byte) (sig [signatureSize]byte) {
	sum := mac(key[:], toSign)
	hex.Encode(sig[:], sum[:])
	return sig
}

// mac returns the HMAC-SHA256 of message. crypto/hmac would make two digests for each, of which a request needs one; it is
// left what is longer than keys and strings to sign are.
func mac(key, message []byte) (sum [keySize]byte) {
	if len(key) > sha256.BlockSize || len(message) > maxMessage {
		h := hmac.New(sha256.New, key)
		h.Write(message)
		h.Sum(sum[:0])
		return sum
	}
	var inner [sha256.BlockSize + maxMessage]byte
	var outer [sha256.BlockSize + keySize]byte
	copy(inner[:], key)
	copy(outer[:], key)
	for i := range sha256.BlockSize {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	n := copy(inner[sha256.BlockSize:], message)
	sum = sha256.Sum256(inner[:sha256.BlockSize+n])
	copy(outer[sha256.BlockSize:], sum[:])
	return sha256.Sum256(outer[:])
}

// maxMessage is longer than a string to sign is in any region of AWS's.
const maxMessage = 256

// keyID names a derived key. The service is the Verifier's.
type keyID struct{ accessKey, date, region string }

// derived is a signing key and the secret it was derived from: a rotated secret makes it useless.
type derived struct {
	secret string
	key    [keySize]byte
}

// keyCache keeps the keys in use, in two generations: a full young generation becomes the old one, and what is used of
// the old one moves up. The zero keyCache is empty.
type keyCache struct {
	mu         sync.Mutex
	young, old map[keyID]derived
}

func (c *keyCache) get(id keyID, secret string) (key [keySize]byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok := c.young[id]
	if !ok {
		if d, ok = c.old[id]; ok {
			c.putLocked(id, d)
		}
	}
	if !ok || d.secret != secret {
		return key, false
	}
	return d.key, true
}

func (c *keyCache) put(id keyID, secret string, key [keySize]byte) {
	// The id is cut out of a request, which must not live as long as the cache.
	id = keyID{strings.Clone(id.accessKey), strings.Clone(id.date), strings.Clone(id.region)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(id, derived{secret, key})
}

func (c *keyCache) putLocked(id keyID, d derived) {
	if c.young == nil || len(c.young) >= keysPerGeneration {
		c.old, c.young = c.young, make(map[keyID]derived)
	}
	c.young[id] = d
}
