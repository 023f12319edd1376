package seal

import (
	"crypto/rand"
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// The options of a mount that may hold a secret leave a process only encrypted, by AES-256-GCM. The mount's id and the
// option's name are authenticated with each, so that a value cannot be moved to a mount whose endpoint is another's.

// sealedPrefix marks an encrypted value: base64 of a nonce and the ciphertext follow.
const sealedPrefix = "sealed:v1:"

// plainOptions are the options of a mount that hold no secret; secret is the name of one.
var plainOptions = []string{"endpoint", "region", "path_style", "anonymous", "user", "principal", "namenodes", "xattrs", "create", "secret", "events"}

// Secret reports whether an option of a mount may hold a secret.
func Secret(option string) bool { return !slices.Contains(plainOptions, option) }

// Sealed reports whether the value of an option looks like one that Options has sealed.
func Sealed(value string) bool { return strings.HasPrefix(value, sealedPrefix) }

func sealedFor(mount, option string) []byte { return []byte(mount + "\x00" + option) }

// Options returns the options of a mount as they are kept and sent.
func (s *Sealer) Options(mount string, options map[string]string) map[string]string {
	if s == nil {
		return options
	}
	kept := maps.Clone(options)
	for name, value := range kept {
		if !Secret(name) || Sealed(value) { // not ours to read
			continue
		}
		nonce := make([]byte, s.aead.NonceSize())
		rand.Read(nonce)
		kept[name] = sealedPrefix + base64.StdEncoding.EncodeToString(s.aead.Seal(nonce, nonce, []byte(value), sealedFor(mount, name)))
	}
	return kept
}

// Open returns the options of a mount as they were given. Errors: errs.Permission if the key is not the one they were
// sealed under.
func (s *Sealer) Open(mount string, kept map[string]string) (map[string]string, error) {
	options := maps.Clone(kept)
	for name, value := range options {
		text, ok := strings.CutPrefix(value, sealedPrefix)
		if !ok || !Secret(name) {
			continue
		}
		wrong := errs.New("seal.Open", mount, errs.Permission,
			"the option "+name+" was encrypted under another secret key; start with the key file that it was made with")
		if s == nil {
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
