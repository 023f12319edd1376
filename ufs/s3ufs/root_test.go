package s3ufs

import "testing"

// However an endpoint is written, the same bucket of the same service has one identity.
func TestRoot(t *testing.T) {
	root := func(endpoint, bucket, prefix string) string {
		s, err := Open(Options{Endpoint: endpoint, Bucket: bucket, Prefix: prefix, Anonymous: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return s.Features().Root
	}
	for want, all := range map[string][]string{
		"s3:localhost:9000/b/p/": {"http://localhost:9000", "http://127.0.0.1:9000/", "http://[::1]:9000", "http://LocalHost:9000//", "http://0.0.0.0:9000"},
		"s3:store.example/b/p/":  {"http://store.example", "http://store.example.:80/", "https://STORE.example:443", "https://store.example"},
		"s3:aws/b/p/":            {"", "https://s3.amazonaws.com", "https://s3.eu-west-1.amazonaws.com:443/"},
		"s3:10.0.0.1:81/b/p/":    {"http://10.0.0.1:81"},
	} {
		for _, endpoint := range all {
			for _, prefix := range []string{"p", "p/"} {
				if got := root(endpoint, "b", prefix); got != want {
					t.Errorf("root(%q, %q): got %q, want %q", endpoint, prefix, got, want)
				}
			}
		}
	}
	if got, want := root("http://h", "b", ""), "s3:h/b/"; got != want {
		t.Errorf("without a prefix: got %q, want %q", got, want)
	}
}
