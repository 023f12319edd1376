package checksum_test

import (
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api/checksum"
)

// The check values of the CRC catalogue and of FIPS 180.
func TestKnownVectors(t *testing.T) {
	for _, tc := range []struct {
		a         checksum.Algorithm
		in, want  string
		header    string
		composite bool
	}{
		{checksum.CRC32, "123456789", "cbf43926", "x-amz-checksum-crc32", true},
		{checksum.CRC32C, "123456789", "e3069283", "x-amz-checksum-crc32c", true},
		{checksum.CRC64NVME, "123456789", "ae8b14860a799888", "x-amz-checksum-crc64nvme", false},
		{checksum.SHA1, "abc", "a9993e364706816aba3e25717850c26c9cd0d89d", "x-amz-checksum-sha1", true},
		{checksum.SHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "x-amz-checksum-sha256", true},
	} {
		h, err := checksum.New(tc.a)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(h, tc.in)
		if got := hex.EncodeToString(h.Sum(nil)); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.a, got, tc.want)
		}
		if tc.a.Header() != tc.header || tc.a.Size() != h.Size() {
			t.Errorf("%s: got %s, %d", tc.a, tc.a.Header(), tc.a.Size())
		}
		if a, ok := checksum.OfHeader(http.CanonicalHeaderKey(tc.header)); a != tc.a || !ok {
			t.Errorf("%s: got %s", tc.header, a)
		}
		if a, err := checksum.Parse(strings.ToLower(string(tc.a))); a != tc.a || err != nil {
			t.Errorf("%s: got %s, %v", tc.a, a, err)
		}
		if got := tc.a.Supports(checksum.Composite); got != tc.composite {
			t.Errorf("%s: composite is %v", tc.a, got)
		}
		if !tc.a.Supports(tc.a.DefaultType()) {
			t.Errorf("%s: its default type is not supported", tc.a)
		}
	}
}

func TestUnknownAlgorithm(t *testing.T) {
	for _, name := range []string{"", "MD5", "CRC64", "CRC32\n"} {
		_, err := checksum.Parse(name)
		if u, ok := errors.AsType[checksum.UnknownAlgorithm](err); !ok || string(u) != name || errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q: got %v", name, err)
		}
		if _, err := checksum.New(checksum.Algorithm(name)); errs.KindOf(err) != errs.Invalid {
			t.Errorf("New(%q): got %v", name, err)
		}
	}
	for _, header := range []string{"x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-checksum-mode", "x-amz-checksum-", "content-md5"} {
		if a, ok := checksum.OfHeader(header); ok {
			t.Errorf("%s: got %s", header, a)
		}
	}
}

func TestDecode(t *testing.T) {
	sum, err := checksum.Decode(checksum.CRC32, "y/Q5Jg==")
	if err != nil || hex.EncodeToString(sum) != "cbf43926" || checksum.Encode(sum) != "y/Q5Jg==" {
		t.Errorf("got %x, %v", sum, err)
	}
	for _, bad := range []string{"", "y/Q5Jg", "y/Q5Jh==", "y/Q5Jg==\n", "y_Q5Jg==", "AAAA", "AAAAAAAA", "AAAAAAAAAAA=", "AAAAAA==-2"} {
		if _, err := checksum.Decode(checksum.CRC32, bad); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	if _, err := checksum.Decode("MD5", ""); !errors.Is(err, errs.Invalid) {
		t.Errorf("got %v", err)
	}
}

func sum(t testing.TB, a checksum.Algorithm, data string) []byte {
	t.Helper()
	h, err := checksum.New(a)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(h, data)
	return h.Sum(nil)
}

func TestCombineRandomSplits(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	data := make([]byte, 100_000)
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	for range 200 {
		whole := string(data[:random.IntN(len(data))])
		for _, a := range []checksum.Algorithm{checksum.CRC32, checksum.CRC32C, checksum.CRC64NVME} {
			var parts []checksum.Part
			for rest := whole; rest != "" || len(parts) == 0; {
				n := min(len(rest), random.IntN(30_000)) // 0 too
				parts = append(parts, checksum.Part{Sum: sum(t, a, rest[:n]), Size: int64(n)})
				rest = rest[n:]
			}
			got, err := checksum.Combine(a, parts)
			if want := sum(t, a, whole); err != nil || string(got) != string(want) {
				t.Fatalf("%s of %d bytes in %d parts: got %x, want %x; %v", a, len(whole), len(parts), got, want, err)
			}
		}
	}
}

func TestCombineRefuses(t *testing.T) {
	crc := sum(t, checksum.CRC32, "a")
	for _, tc := range []struct {
		a     checksum.Algorithm
		parts []checksum.Part
	}{{checksum.SHA256, []checksum.Part{{Sum: sum(t, checksum.SHA256, "a"), Size: 1}}}, {checksum.CRC32, nil}, {"", nil},
		{checksum.CRC64NVME, []checksum.Part{{Sum: crc, Size: 1}}}, {checksum.CRC32, []checksum.Part{{Sum: crc, Size: -1}}}} {
		if _, err := checksum.Combine(tc.a, tc.parts); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v", tc.a, err)
		}
	}
}

func TestComposite(t *testing.T) {
	sums := [][]byte{sum(t, checksum.SHA256, "one"), sum(t, checksum.SHA256, "two")}
	got, err := checksum.CompositeOf(checksum.SHA256, sums)
	want := sum(t, checksum.SHA256, string(sums[0])+string(sums[1]))
	if err != nil || got != checksum.Encode(want)+"-2" {
		t.Errorf("got %s, %v", got, err)
	}
	for value, count := range map[string]int{got: 2, checksum.Encode(want): 0} {
		if s, n, err := checksum.DecodeComposite(checksum.SHA256, value); err != nil || n != count || string(s) != string(want) {
			t.Errorf("%s: got %x, %d, %v", value, s, n, err)
		}
	}
	for _, bad := range []string{got + "-2", checksum.Encode(want) + "-", checksum.Encode(want) + "-0", checksum.Encode(want) + "--1", "-2", ""} {
		if _, _, err := checksum.DecodeComposite(checksum.SHA256, bad); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	for _, bad := range [][][]byte{nil, {sums[0], {1}}} {
		if _, err := checksum.CompositeOf(checksum.SHA256, bad); !errors.Is(err, errs.Invalid) {
			t.Errorf("%v: got %v", bad, err)
		}
	}
	if _, err := checksum.CompositeOf("MD5", sums); !errors.Is(err, errs.Invalid) {
		t.Errorf("got %v", err)
	}
}

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func TestExpect(t *testing.T) {
	for _, tc := range []struct {
		name string
		h    http.Header
		a    checksum.Algorithm
		sum  string
	}{
		{"none", header("Content-Type", "a/b", "x-amz-checksum-mode", "ENABLED", "x-amz-checksum-algorithm", "CRC32"), "", ""},
		{"value", header("x-amz-checksum-crc32", "y/Q5Jg==", "x-amz-sdk-checksum-algorithm", "crc32"), checksum.CRC32, "cbf43926"},
		{"trailer", header("x-amz-trailer", "X-Amz-Checksum-Sha256", "x-amz-sdk-checksum-algorithm", "SHA256"), checksum.SHA256, ""},
	} {
		got, err := checksum.Expect(tc.h)
		if err != nil || got.Algorithm != tc.a || hex.EncodeToString(got.Sum) != tc.sum {
			t.Errorf("%s: got %v, %v", tc.name, got, err)
		}
	}
	for name, h := range map[string]http.Header{
		"two":             header("x-amz-checksum-crc32", "y/Q5Jg==", "x-amz-checksum-crc32c", "4waSgw=="),
		"one twice":       header("x-amz-checksum-crc32", "y/Q5Jg==", "x-amz-checksum-crc32", "y/Q5Jg=="),
		"value, trailer":  header("x-amz-checksum-crc32", "y/Q5Jg==", "x-amz-trailer", "x-amz-checksum-crc32"),
		"malformed":       header("x-amz-checksum-crc32", "y/Q5"),
		"empty":           header("x-amz-checksum-crc32", ""),
		"unknown":         header("x-amz-checksum-md4", "AAAA"),
		"unknown trailer": header("x-amz-trailer", "x-amz-checksum-md4"),
		"unknown name":    header("x-amz-sdk-checksum-algorithm", "MD4"),
		"mismatch":        header("x-amz-checksum-crc32", "y/Q5Jg==", "x-amz-sdk-checksum-algorithm", "CRC32C"),
	} {
		if got, err := checksum.Expect(h); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestVerifier(t *testing.T) {
	good := sum(t, checksum.CRC32C, "content")
	trailer := func(value string) func() http.Header {
		return func() http.Header { return header("x-amz-checksum-crc32c", value) }
	}
	for _, tc := range []struct {
		name    string
		sum     []byte
		trailer func() http.Header
		want    error
	}{
		{"header", good, nil, nil},
		{"wrong header", sum(t, checksum.CRC32C, "Content"), nil, errs.BadDigest},
		{"trailer", nil, trailer(checksum.Encode(good)), nil},
		{"wrong trailer", nil, trailer("AAAAAA=="), errs.BadDigest},
		{"malformed trailer", nil, trailer("AAAA"), errs.Invalid},
		{"empty trailer", nil, func() http.Header { return nil }, errs.Invalid},
		{"no trailer", nil, nil, errs.Invalid},
	} {
		for _, source := range []io.Reader{strings.NewReader("content"), iotest.OneByteReader(strings.NewReader("content"))} {
			v, err := checksum.NewVerifier(source, checksum.Expected{Algorithm: checksum.CRC32C, Sum: tc.sum}, tc.trailer)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(v)
			if string(got) != "content" || !errors.Is(err, tc.want) || string(v.Sum()) != string(good) {
				t.Errorf("%s: got %q, %v", tc.name, got, err)
			}
			if n, err := v.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("%s: read on: got %d, %v", tc.name, n, err)
			}
		}
	}
	if _, err := checksum.NewVerifier(strings.NewReader(""), checksum.Expected{}, nil); errs.KindOf(err) != errs.Invalid {
		t.Errorf("got %v", err)
	}
	cut := errors.New("cut")
	v, _ := checksum.NewVerifier(iotest.ErrReader(cut), checksum.Expected{Algorithm: checksum.SHA1, Sum: make([]byte, 20)}, nil)
	if _, err := io.ReadAll(v); !errors.Is(err, cut) {
		t.Errorf("got %v", err)
	}
}

func FuzzDecodeComposite(f *testing.F) {
	f.Add("AAAAAA==-3")
	f.Fuzz(func(t *testing.T, value string) {
		sum, n, err := checksum.DecodeComposite(checksum.CRC32, value)
		if err == nil && (len(sum) != 4 || n < 0 || !strings.HasPrefix(value, checksum.Encode(sum))) {
			t.Errorf("%q: got %x, %d", value, sum, n)
		}
	})
}

func BenchmarkCombine(b *testing.B) {
	parts := make([]checksum.Part, 10_000)
	for i := range parts {
		parts[i] = checksum.Part{Sum: make([]byte, 8), Size: 8 << 20}
	}
	for b.Loop() {
		if _, err := checksum.Combine(checksum.CRC64NVME, parts); err != nil {
			b.Fatal(err)
		}
	}
}
