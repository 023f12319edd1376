package gateway

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"

	"github.com/sluicefs/sluice/gateway/config"
)

// certificate is the server's certificate, which can be read again while it serves.
type certificate struct {
	files   config.TLS
	current atomic.Pointer[tls.Certificate]
}

func newCertificate(files config.TLS) (*certificate, error) {
	c := &certificate{files: files}
	return c, c.reload()
}

// reload reads the files again. If they are not a certificate and its key, the one before stays in use.
func (c *certificate) reload() error {
	pair, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return fmt.Errorf("tls: %s and %s are not a certificate and its key: %w", c.files.Cert, c.files.Key, err)
	}
	c.current.Store(&pair)
	return nil
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}
