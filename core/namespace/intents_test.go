package namespace

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/meta"
)

// TestIntentSurvives reads intents as this version journals them, and as older ones did.
func TestIntentSurvives(t *testing.T) {
	file := meta.Entry{
		Class: meta.Persisted, ID: 7, Rev: 9, Size: 5, Extents: wholeExtent(7, 9, 5), ETag: strings.Repeat("0a", 16), MTime: 3, ATime: 3,
		Owner: "alice", Group: "analysts", Mode: 0o644 | modeSet, BlockSize: defaultBlock, Replication: 3,
		Headers: map[string]string{"content-type": "text/plain"}, User: map[string]string{"k": "v", "l": "ü"}, Checksums: `[]`, Parts: []int64{1, 5},
	}
	dir := meta.Entry{Class: meta.Directory, Dir: 4711, Explicit: true, Owner: "alice", Mode: 0o755 | modeSet}
	for _, in := range []openIntent{
		{op: opPut, path: "/a", store: "s", key: "a", token: "t", entry: file, edge: "1", since: time.Unix(0, 5)},
		{op: opPut, path: "/a", store: "s", key: "a", upload: "u", parts: "p", entry: file, edge: "1", since: time.Unix(0, 5)},
		{op: opPersist, path: "/a", store: "s", key: "a", token: "t", entry: file, edge: "2", since: time.Unix(0, 6)},
		{op: opMkdir, path: "/d/", store: "s", key: "d/", entry: dir, edge: "3", since: time.Unix(0, 7)},
		{op: opRemove, path: "/a", store: "s", key: "a", version: "v", edge: "4", since: time.Unix(0, 8)},
	} {
		note := in.note()
		if got, err := intentOf(in.edge, &note); err != nil || !reflect.DeepEqual(got, in) {
			t.Errorf("%s: got %+v, %v, want %+v", in.op, got, err, in)
		}
		if in.entry.Class == 0 {
			continue
		}
		plain, err := json.Marshal(in.entry)
		if err != nil {
			t.Fatal(err)
		}
		form, text := "entry", string(plain)
		if in.op == opPut && in.upload == "" {
			form, text = "packed", note.Extra["packed"]
			if text == "" || len(text) > len(plain)/2 {
				t.Errorf("the entry of a put takes %d bytes, and %d as JSON", len(text), len(plain))
			}
			if old := note.Extra["entry"]; old != "" {
				t.Errorf("an older version sees %q", old)
			}
		}
		if note.Extra[form] != text {
			t.Errorf("%s: an older version cannot read the entry %q", in.op, note.Extra[form])
		}
		for _, bad := range []string{text[:len(text)-1], "\x01", "\xff" + text, "{", " "} {
			note.Extra[form] = bad
			if got, err := intentOf(in.edge, &note); err == nil {
				t.Errorf("%s: %q is read as %+v", in.op, bad, got.entry)
			}
		}
		delete(note.Extra, form)
		note.Extra["entry"] = string(plain)
		if got, err := intentOf(in.edge, &note); err != nil || !reflect.DeepEqual(got, in) {
			t.Errorf("%s of an older version: got %+v, %v, want %+v", in.op, got, err, in)
		}
	}
}
