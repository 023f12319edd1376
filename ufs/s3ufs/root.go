package s3ufs

import (
	"net"
	"net/url"
	"strings"
)

// service names the service at endpoint, the same for each way to write it: names of this machine are one, and so are the
// default ports and the regional names of AWS, which has one set of bucket names.
func service(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil || endpoint == "" {
		return "aws"
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if strings.HasSuffix(host, ".amazonaws.com") && (strings.HasPrefix(host, "s3.") || strings.HasPrefix(host, "s3-")) {
		return "aws"
	}
	if ip := net.ParseIP(host); ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) || strings.HasSuffix(host, ".localhost") {
		host = "localhost"
	} else if ip != nil {
		host = ip.String()
	}
	if p := u.Port(); p != "" && p != "80" && p != "443" {
		host = net.JoinHostPort(host, p)
	}
	return host + strings.TrimRight(u.Path, "/")
}
