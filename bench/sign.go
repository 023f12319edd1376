package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The key pair of every server.
const (
	accessKey = "bench"
	secretKey = "bench-secret-key"
	region    = "us-east-1"
)

// A call is one request to be signed.
type call struct {
	method string
	path   string     // as on the wire: its names need no escape
	query  url.Values // nil: none
	header []string   // more header fields, "name: value"; not signed
	length int64      // of the body; -1: no body and no Content-Length
}

// wire returns the header section of the call, signed with SigV4 for a payload that is not, as it goes to the server at addr.
// Servers refuse it when it is older than 15 minutes.
func (c *call) wire(addr string, now time.Time) []byte {
	stamp := now.UTC().Format("20060102T150405Z")
	date := stamp[:8]
	query := strings.ReplaceAll(c.query.Encode(), "+", "%20")
	canonical := c.method + "\n" + c.path + "\n" + query + "\nhost:" + addr + "\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:" +
		stamp + "\n\nhost;x-amz-content-sha256;x-amz-date\nUNSIGNED-PAYLOAD"
	sum := sha256.Sum256([]byte(canonical))
	scope := date + "/" + region + "/s3/aws4_request"
	signature := mac(signingKey(date), "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hex.EncodeToString(sum[:]))
	b := make([]byte, 0, 512)
	b = append(b, c.method+" "+c.path...)
	if query != "" {
		b = append(b, "?"+query...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "+addr+"\r\nX-Amz-Content-Sha256: UNSIGNED-PAYLOAD\r\nX-Amz-Date: "+stamp+
		"\r\nAuthorization: AWS4-HMAC-SHA256 Credential="+accessKey+"/"+scope+
		", SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature="...)
	b = hex.AppendEncode(b, signature)
	b = append(b, "\r\n"...)
	for _, h := range c.header {
		b = append(b, h+"\r\n"...)
	}
	if c.length >= 0 {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, c.length, 10)
		b = append(b, "\r\n"...)
	}
	return slices.Clip(append(b, "\r\n"...))
}

var (
	keyMu sync.Mutex
	keys  = map[string][]byte{} // by date
)

func signingKey(date string) []byte {
	keyMu.Lock()
	defer keyMu.Unlock()
	k, ok := keys[date]
	if !ok {
		k = deriveKey(secretKey, date, region, "s3")
		keys[date] = k
	}
	return k
}

func deriveKey(secret, date, region, service string) []byte {
	return mac(mac(mac(mac([]byte("AWS4"+secret), date), region), service), "aws4_request")
}

func mac(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}
