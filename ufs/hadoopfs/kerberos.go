package hadoopfs

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"

	krb "github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/spnego"
)

// Kerberos says who we are on a cluster with Kerberos. The zero value is a cluster without. No test logs in at a KDC.
type Kerberos struct {
	Principal string // user@REALM or user/host@REALM; with CCache, that of the cache if it is ""
	Keytab    string // file that holds its key
	CCache    string // or a file with tickets that somebody else renews: it is read for each connection
	Config    string // file; "": $KRB5_CONFIG, else /etc/krb5.conf
}

// Login is a principal's logging in.
type Login struct {
	k   Kerberos
	cfg *config.Config
	kt  *keytab.Keytab

	mu sync.Mutex
	in *krb.Client // with a keytab: renews its tickets by itself
}

// Login reads the files that k names, and returns nil for the zero value. It asks no KDC.
func (k Kerberos) Login() (*Login, error) {
	if k == (Kerberos{}) {
		return nil, nil
	}
	switch {
	case k.Keytab == "" && k.CCache == "":
		return nil, errors.New("Kerberos needs the option keytab (with principal) or ccache")
	case k.Keytab != "" && k.CCache != "":
		return nil, errors.New("give one of the options keytab and ccache")
	case k.Keytab != "" && !strings.Contains(k.Principal, "@"):
		return nil, errors.New("a keytab needs the option principal, like user@REALM")
	}
	if k.Config == "" {
		k.Config = os.Getenv("KRB5_CONFIG")
	}
	if k.Config == "" {
		k.Config = "/etc/krb5.conf"
	}
	l := &Login{k: k}
	var err error
	if l.cfg, err = config.Load(k.Config); err != nil {
		return nil, fmt.Errorf("read the Kerberos configuration %s: %w", k.Config, err)
	}
	if k.Keytab != "" {
		if l.kt, err = keytab.Load(k.Keytab); err != nil {
			return nil, fmt.Errorf("read the keytab %s: %w", k.Keytab, err)
		}
	} else if _, err := l.fromCache(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Login) fromCache() (*krb.Client, error) {
	cc, err := credentials.LoadCCache(strings.TrimPrefix(l.k.CCache, "FILE:"))
	if err != nil {
		return nil, fmt.Errorf("read the ticket cache %s: %w", l.k.CCache, err)
	}
	c, err := krb.NewFromCCache(cc, l.cfg, krb.DisablePAFXFAST(true))
	if err != nil {
		return nil, fmt.Errorf("use the ticket cache %s: %w", l.k.CCache, err)
	}
	return c, nil
}

// Client returns a client with tickets.
func (l *Login) Client() (*krb.Client, error) {
	if l.kt == nil {
		return l.fromCache()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.in != nil {
		return l.in, nil
	}
	name, realm, _ := strings.Cut(l.k.Principal, "@")
	c := krb.NewWithKeytab(name, realm, l.kt, l.cfg, krb.DisablePAFXFAST(true))
	if err := c.Login(); err != nil {
		c.Destroy()
		return nil, fmt.Errorf("log in as %s: %w", l.k.Principal, err)
	}
	l.in = c
	return c, nil
}

// Close forgets the tickets.
func (l *Login) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.in != nil {
		l.in.Destroy()
		l.in = nil
	}
}

// Negotiate adds to r what proves who we are to its host (SPNEGO).
func (l *Login) Negotiate(r *http.Request) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	if err := spnego.SetSPNEGOHeader(c, r, "HTTP/"+r.URL.Hostname()); err != nil {
		return fmt.Errorf("get a ticket for HTTP/%s: %w", r.URL.Hostname(), err)
	}
	return nil
}
