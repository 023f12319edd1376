package seal

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
)

func TestSealedOptions(t *testing.T) {
	key := bytes.Repeat([]byte{7}, KeySize)
	s, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	options := map[string]string{"endpoint": "http://store", "access_key": "AKID", "secret_key": "hush", "empty": ""}
	kept := s.Options("m1", options)
	for name, value := range kept {
		if plain := options[name]; name != "endpoint" && (plain != "" && strings.Contains(value, plain) || !strings.HasPrefix(value, sealedPrefix)) {
			t.Errorf("%s is kept as %q", name, value)
		}
	}
	if kept["endpoint"] != options["endpoint"] {
		t.Errorf("the endpoint is kept as %q", kept["endpoint"])
	}
	if maps.Equal(kept, s.Options("m1", options)) {
		t.Error("two seals of the same options are the same")
	}
	if got, err := s.Open("m1", kept); err != nil || !maps.Equal(got, options) {
		t.Errorf("got %v, %v", got, err)
	}
	refused := func(what string, s *Sealer, mount string, kept map[string]string) {
		t.Helper()
		if got, err := s.Open(mount, kept); errs.KindOf(err) != errs.Permission || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: got %v, %v", what, got, err)
		}
	}
	other, _ := New(bytes.Repeat([]byte{8}, KeySize))
	refused("another key", other, "m1", kept)
	refused("no key", nil, "m1", kept)
	refused("another mount", s, "m2", kept)
	refused("another option", s, "m1", map[string]string{"access_key": kept["secret_key"]})
	for _, broken := range []string{"", "!", "AAAA", strings.Repeat("A", 64)} {
		refused("broken "+broken, s, "m1", map[string]string{"secret_key": sealedPrefix + broken})
	}
	if got, err := s.Open("m1", options); err != nil || !maps.Equal(got, options) {
		t.Errorf("options of a time before there was a key: got %v, %v", got, err)
	}
	if _, err := New(key[1:]); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a short key: got %v", err)
	}
}
