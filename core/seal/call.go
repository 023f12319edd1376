package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

/*
A call as it travels:

	version:byte expires:varint (unix seconds) text
	signature: the first 16 bytes of HMAC-SHA-256 of what comes before

It is for one release and the one before it, and is not kept.
*/
const callVersion byte = 1

// SignCall returns text, which says what a master asks of a worker, as it travels. It is believed until expires. A nil Sealer
// returns nil.
func (s *Sealer) SignCall(text []byte, expires time.Time) []byte {
	if s == nil {
		return nil
	}
	b := make([]byte, 0, 1+binary.MaxVarintLen64+len(text)+signatureSize)
	b = binary.AppendVarint(append(b, callVersion), expires.Unix())
	b = append(b, text...)
	return append(b, s.callSignature(b)...)
}

func (s *Sealer) callSignature(b []byte) []byte {
	h := hmac.New(sha256.New, s.calls)
	h.Write(b)
	return h.Sum(nil)[:signatureSize]
}

// VerifyCall returns the text of the call that b is. Errors: errs.Permission if it was not signed under this key, or has expired at
// now, or is of another release.
func (s *Sealer) VerifyCall(b []byte, now time.Time) ([]byte, error) {
	refuse := func(why string) ([]byte, error) {
		return nil, errs.New("seal.VerifyCall", "", errs.Permission, "the call "+why)
	}
	if s == nil || len(b) < signatureSize+2 {
		return refuse("is none")
	}
	text, signature := b[:len(b)-signatureSize], b[len(b)-signatureSize:]
	if !hmac.Equal(signature, s.callSignature(text)) {
		return refuse("was not signed under this cluster's secret key")
	}
	r := ticketReader{b: text[1:]}
	expires := time.Unix(r.varint(), 0)
	if text[0] != callVersion || r.bad {
		return refuse("is of another release")
	}
	if now.After(expires) {
		return refuse("has expired; are the clocks of masters and workers the same?")
	}
	return r.b, nil
}
