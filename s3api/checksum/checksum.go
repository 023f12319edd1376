// Package checksum knows S3's additional checksums: their names and headers, their text form, how the checksums of parts
// become that of an object, and how to check one while bytes pass. It is pure protocol: it computes and compares, and
// leaves to its callers what a missing or wrong checksum means for an object. Content-MD5 and ETags are not its matter.
package checksum

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/minio/crc64nvme"

	"github.com/sluicefs/sluice/core/errs"
)

// Algorithm is a checksum algorithm by the name S3 gives it. "" is none.
type Algorithm string

// The algorithms.
const (
	CRC32     Algorithm = "CRC32"
	CRC32C    Algorithm = "CRC32C"
	CRC64NVME Algorithm = "CRC64NVME"
	SHA1      Algorithm = "SHA1"
	SHA256    Algorithm = "SHA256"
)

// Type is what the checksum of a multipart object is computed from.
type Type string

// The types.
const (
	FullObject Type = "FULL_OBJECT" // the object's bytes
	Composite  Type = "COMPOSITE"   // the parts' checksums
)

// Algorithms returns every algorithm, in the order S3 lists them.
func Algorithms() []Algorithm { return []Algorithm{CRC32, CRC32C, CRC64NVME, SHA1, SHA256} }

// UnknownAlgorithm is the error for a name that is no algorithm's. It is of kind errs.Invalid.
type UnknownAlgorithm string

// Error names the algorithms there are.
func (e UnknownAlgorithm) Error() string {
	return "checksum algorithm " + strconv.Quote(string(e)) +
		" is unsupported; use one of CRC32, CRC32C, CRC64NVME, SHA1, SHA256"
}

// Unwrap returns errs.Invalid.
func (e UnknownAlgorithm) Unwrap() error { return errs.Invalid }

// Parse returns the algorithm a client names, in any case. Errors: UnknownAlgorithm.
func Parse(name string) (Algorithm, error) {
	a := Algorithm(strings.ToUpper(name))
	if a.Size() == 0 {
		return "", UnknownAlgorithm(name)
	}
	return a, nil
}

const headerPrefix = "x-amz-checksum-"

// OfHeader returns the algorithm whose value the header name carries, in any case; ok is false for every other header,
// x-amz-checksum-algorithm, -type and -mode included.
func OfHeader(name string) (a Algorithm, ok bool) {
	if len(name) < len(headerPrefix) || !strings.EqualFold(name[:len(headerPrefix)], headerPrefix) {
		return "", false
	}
	a, err := Parse(name[len(headerPrefix):])
	return a, err == nil
}

// Header returns the lower-case name of the header that carries the algorithm's value.
func (a Algorithm) Header() string { return headerPrefix + strings.ToLower(string(a)) }

// Size returns the length of a checksum in bytes, 0 for an unknown algorithm.
func (a Algorithm) Size() int {
	switch a {
	case CRC32, CRC32C:
		return crc32.Size
	case CRC64NVME:
		return crc64nvme.Size
	case SHA1:
		return sha1.Size
	case SHA256:
		return sha256.Size
	}
	return 0
}

// Supports reports whether a multipart object can have a checksum of this type: only CRCs of parts give that of the
// whole, and S3 has CRC64NVME for the whole alone.
func (a Algorithm) Supports(t Type) bool {
	switch a {
	case CRC32, CRC32C:
		return t == FullObject || t == Composite
	case CRC64NVME:
		return t == FullObject
	case SHA1, SHA256:
		return t == Composite
	}
	return false
}

// DefaultType returns the type a multipart upload has that names none.
func (a Algorithm) DefaultType() Type {
	if a == CRC64NVME {
		return FullObject
	}
	return Composite
}

// New returns a hash whose Sum is the checksum in S3's byte order, big-endian. Errors: UnknownAlgorithm.
func New(a Algorithm) (hash.Hash, error) {
	switch a {
	case CRC32:
		return crc32.NewIEEE(), nil
	case CRC32C:
		return crc32.New(crc32.MakeTable(crc32.Castagnoli)), nil
	case CRC64NVME:
		return crc64nvme.New(), nil
	case SHA1:
		return sha1.New(), nil
	case SHA256:
		return sha256.New(), nil
	}
	return nil, UnknownAlgorithm(a)
}

// Encode returns a checksum as headers carry it.
func Encode(sum []byte) string { return base64.StdEncoding.EncodeToString(sum) }

// Decode returns the checksum a header carries. Errors: errs.Invalid if value is not the base64 of a's Size in bytes.
func Decode(a Algorithm, value string) ([]byte, error) {
	sum, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil || len(sum) == 0 || len(sum) != a.Size() || strings.ContainsAny(value, "\r\n") { // which base64 skips
		return nil, errs.New("checksum.Decode", a.Header(), errs.Invalid,
			"the value must be the base64 of "+strconv.Itoa(a.Size())+" bytes")
	}
	return sum, nil
}
