package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicefs/sluice/core"
)

// Validate returns every problem of c, joined, each starting with the path of its key; nil if there is none.
func (c Config) Validate() error {
	var p problems
	if c.Data == "" {
		p.add("data", "must name a directory")
	}
	c.checkListeners(&p)
	p.oneOf("webhdfs.auth", c.WebHDFS.Auth, "auto", "simple", "basic")
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", c.Log.Format, "auto", "text", "json")
	p.err("write_type", checkWriteType(c.WriteType))
	p.err("read_type", checkReadType(c.ReadType))
	c.checkRoot(&p)
	c.checkAliases(&p)
	c.checkTiers(&p)
	c.checkMounts(&p)
	return errors.Join(p...)
}

// FieldError is what is wrong with the value of one key.
type FieldError struct {
	Key string // its path: "s3.listen", or "mode" of a mount by itself
	Err error
}

// Error returns "key: what is wrong".
func (e *FieldError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

// Fields returns the FieldErrors that err joins.
func Fields(err error) []*FieldError {
	if e, ok := err.(*FieldError); ok {
		return []*FieldError{e}
	}
	var all []*FieldError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			all = append(all, Fields(e)...)
		}
	}
	return all
}

type problems []error

func (p *problems) add(key, format string, args ...any) { p.err(key, fmt.Errorf(format, args...)) }

func (p *problems) err(key string, err error) {
	if err != nil {
		*p = append(*p, &FieldError{key, err})
	}
}

func (p *problems) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		p.add(key, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func (c Config) checkListeners(p *problems) {
	used := map[string]string{}
	for _, l := range []struct{ key, addr string }{
		{"s3.listen", c.S3.Listen}, {"s3.tls_listen", c.S3.TLSListen}, {"webhdfs.listen", c.WebHDFS.Listen},
		{"webhdfs.tls_listen", c.WebHDFS.TLSListen}, {"admin.listen", c.Admin.Listen},
	} {
		if l.addr == "" {
			continue
		}
		if err := checkAddr(l.addr); err != nil {
			p.err(l.key, err)
			continue
		}
		if other, taken := used[l.addr]; taken && !strings.HasSuffix(l.addr, ":0") {
			p.add(l.key, "%s is the address of %s too; choose another", l.addr, other)
		}
		used[l.addr] = l.key
	}
	if wants := c.S3.TLSListen != "" || c.WebHDFS.TLSListen != ""; wants && (c.TLS.Cert == "" || c.TLS.Key == "") {
		p.add("tls", "a TLS listener needs tls.cert and tls.key")
	}
	if c.WebHDFS.Advertise != "" {
		p.err("webhdfs.advertise", checkAddr(c.WebHDFS.Advertise))
	}
}

func checkAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT, such as 127.0.0.1:9000 or :9000", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return fmt.Errorf("%q is not a port; it is a number from 0 to 65535", port)
	}
	return nil
}

func (c Config) checkRoot(p *problems) {
	switch access, secret := c.Root.AccessKey, c.Root.SecretKey.Reveal(); {
	case access == "" && secret == "":
	case access == "" || secret == "":
		p.add("root", "root.access_key and root.secret_key are set together or not at all")
	case len(access) < 3 || strings.ContainsAny(access, "/=,: \t\r\n"):
		p.add("root.access_key", "needs at least 3 characters, none of them a space or one of / = , :")
	case len(secret) < 8:
		p.add("root.secret_key", "needs at least 8 characters")
	}
}

func (c Config) checkAliases(p *problems) {
	for _, name := range slices.Sorted(maps.Keys(c.BucketAliases)) {
		key := "bucket_aliases." + name
		if _, err := core.ParsePath(c.BucketAliases[name]); err != nil {
			p.add(key, "%q is not a path; it starts with /", c.BucketAliases[name])
		}
		if len(name) < 3 || len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
			p.add(key, "not a bucket name: 3 to 63 lower-case letters, digits, dots and hyphens")
		}
	}
}

func (c Config) checkTiers(p *problems) {
	for i, t := range c.Cache.Tiers {
		key := fmt.Sprintf("cache.tiers[%d]", i)
		if t.Dir == "" {
			p.add(key+".dir", "a tier needs a directory")
		}
		if t.Quota < 0 {
			p.add(key+".quota", "must not be negative")
		}
		p.oneOf(key+".medium", t.Medium, "mem", "ssd", "hdd")
	}
}

func (c Config) checkMounts(p *problems) {
	seen := map[core.Path]bool{}
	for i, m := range c.Mounts {
		key := fmt.Sprintf("mounts[%d]", i)
		mount, err := m.Spec(c)
		if err != nil {
			for _, e := range Fields(err) {
				p.err(key+"."+e.Key, e.Err)
			}
			continue
		}
		if seen[mount.Path] {
			p.add(key+".path", "%s is mounted twice", m.Path)
		}
		seen[mount.Path] = true
	}
}
