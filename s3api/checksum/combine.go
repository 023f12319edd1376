package checksum

import (
	"encoding/binary"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// Part is the checksum and the length in bytes of a piece of an object.
type Part struct {
	Sum  []byte
	Size int64
}

// nvme is CRC64NVME's polynomial, reflected as those of hash/crc32 are.
const nvme = 0x9a6c9329ac4bc9b5

// Combine returns the FULL_OBJECT checksum of the parts laid end to end, from their checksums alone. Errors:
// errs.Invalid if there is no part, a is no CRC, or a part's checksum has another length than a's.
func Combine(a Algorithm, parts []Part) ([]byte, error) {
	var f field
	switch a {
	case CRC32:
		f = field{crc32.IEEE, 32}
	case CRC32C:
		f = field{crc32.Castagnoli, 32}
	case CRC64NVME:
		f = field{nvme, 64}
	default:
		return nil, errs.New("checksum.Combine", string(a), errs.Invalid, "only CRCs of parts give the checksum of the object")
	}
	if len(parts) == 0 {
		return nil, errs.New("checksum.Combine", string(a), errs.Invalid, "there are no parts")
	}
	var crc, shift uint64
	size := int64(-1)
	for i, p := range parts {
		if len(p.Sum) != a.Size() || p.Size < 0 {
			return nil, errs.New("checksum.Combine", string(a), errs.Invalid, "part "+strconv.Itoa(i+1)+" has no valid checksum")
		}
		if p.Size != size { // parts mostly have one size
			size, shift = p.Size, f.shift(p.Size)
		}
		crc = f.mul(crc, shift) ^ number(p.Sum)
	}
	return f.bytes(crc), nil
}

// CompositeOf returns the COMPOSITE checksum of the parts' checksums as headers carry it, "<base64>-<number of parts>".
// Errors: errs.Invalid if there is no part or a checksum has another length than a's; UnknownAlgorithm.
func CompositeOf(a Algorithm, sums [][]byte) (string, error) {
	h, err := New(a)
	if err != nil {
		return "", err
	}
	if len(sums) == 0 {
		return "", errs.New("checksum.CompositeOf", string(a), errs.Invalid, "there are no parts")
	}
	for i, sum := range sums {
		if len(sum) != a.Size() {
			return "", errs.New("checksum.CompositeOf", string(a), errs.Invalid, "part "+strconv.Itoa(i+1)+" has no valid checksum")
		}
		h.Write(sum)
	}
	return Encode(h.Sum(nil)) + "-" + strconv.Itoa(len(sums)), nil
}

// DecodeComposite splits "<base64>-<number of parts>"; parts is 0 if value has no number, as clients may leave it out.
// Errors: errs.Invalid.
func DecodeComposite(a Algorithm, value string) (sum []byte, parts int, err error) {
	text, count, counted := strings.Cut(value, "-") // which base64 has not
	if counted {
		n, err := strconv.ParseUint(count, 10, 31)
		if err != nil || n == 0 {
			return nil, 0, errs.New("checksum.DecodeComposite", a.Header(), errs.Invalid, "the number of parts after - is not a number")
		}
		parts = int(n)
	}
	sum, err = Decode(a, text)
	return sum, parts, err
}

// field is GF(2)[x] modulo a CRC's polynomial. Elements are reflected: the highest of the width bits is the coefficient
// of x⁰.
//
// Appending n bytes to a message multiplies its CRC by x⁸ⁿ, and the CRC of what is appended is added; the usual initial
// value and final inversion, both all ones, cancel out in this.
type field struct {
	polynomial uint64 // without its highest power
	width      uint
}

// mul returns a·b.
func (f field) mul(a, b uint64) uint64 {
	var product uint64
	for bit := uint64(1) << (f.width - 1); bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		b = b>>1 ^ f.polynomial&-(b&1)
	}
	return product
}

// shift returns x⁸ⁿ.
func (f field) shift(n int64) uint64 {
	power := uint64(1) << (f.width - 1) // x⁰
	square := power >> 8                // x⁸
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			power = f.mul(power, square)
		}
		square = f.mul(square, square)
	}
	return power
}

func (f field) bytes(crc uint64) []byte {
	if f.width == 32 {
		return binary.BigEndian.AppendUint32(nil, uint32(crc))
	}
	return binary.BigEndian.AppendUint64(nil, crc)
}

func number(sum []byte) (n uint64) {
	for _, b := range sum {
		n = n<<8 | uint64(b)
	}
	return n
}
