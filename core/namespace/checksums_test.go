package namespace

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/sluicefs/sluice/core"
)

// TestDecodeChecksums holds the short cut for one checksum against the decoder of JSON.
func TestDecodeChecksums(t *testing.T) {
	crc := core.Checksum{Algorithm: "CRC64NVME", Value: "AyZ1cG+/Nw0=", Type: "FULL_OBJECT"}
	for _, cs := range [][]core.Checksum{nil, {crc}, {crc, {Algorithm: "SHA1", Value: "a-3", Type: "COMPOSITE"}}, {{}}, {{Value: `","Type":"`}},
		{{Algorithm: `\`}}, {{Type: `"}]`}}, {{Algorithm: "<é\x00>", Value: "&"}}} {
		s := encodeChecksums(cs)
		if got := decodeChecksums(s); !slices.Equal(got, cs) {
			t.Errorf("%s decodes as %+v, want %+v", s, got, cs)
		}
	}
	for _, s := range []string{`[]`, `[{}]`, `[{"Algorithm":"a","Value":"b","Type":"c"}`, `[{"Algorithm":"a","Value":"b","Type":"c"},{"Algorithm":"d"}]`,
		`[{"Algorithm":"a","Value":"b","Type":"c","More":"d"}]`, `x`, `[{"Algorithm":"a\u0041","Value":"b","Type":"c"}]`} {
		var want []core.Checksum
		if json.Unmarshal([]byte(s), &want) != nil {
			want = nil
		}
		if got := decodeChecksums(s); !slices.Equal(got, want) {
			t.Errorf("%s decodes as %+v, want %+v", s, got, want)
		}
	}
	if _, ok := oneChecksum(encodeChecksums([]core.Checksum{crc})); !ok {
		t.Error("the common case takes the long way")
	}
}
