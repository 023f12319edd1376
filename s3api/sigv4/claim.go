package sigv4

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The query parameters of a presigned request.
const (
	queryAlgorithm     = "X-Amz-Algorithm"
	queryCredential    = "X-Amz-Credential"
	queryDate          = "X-Amz-Date"
	queryExpires       = "X-Amz-Expires"
	querySignedHeaders = "X-Amz-SignedHeaders"
	querySignature     = "X-Amz-Signature"
	queryToken         = "X-Amz-Security-Token"
	queryContentHash   = "X-Amz-Content-Sha256"
)

const (
	headerContentHash = "X-Amz-Content-Sha256"
	headerToken       = "X-Amz-Security-Token"
	headerDate        = "X-Amz-Date"

	maxNames   = 256                // signed headers of a request; clients sign a dozen
	maxExpires = 7 * 24 * time.Hour // AWS's limit for a presigned request
)

// claim is what a request says about itself; nothing of it is true before the signature is.
type claim struct {
	typ           Type
	accessKey     string
	scope         string // date/region/service/terminal
	date          string
	region        string
	service       string
	terminal      string
	signedHeaders string
	signature     string
	stamp         string // the time in the form that is signed
	time          time.Time
	expires       time.Duration // Presigned only
	payloadHash   string
}

// malformed returns the error for a claim that cannot be read.
func (c *claim) malformed(why string, fields ...Field) *Error {
	if c.typ == Presigned {
		return malformedQuery("Error parsing the "+queryCredential+" parameter; "+why, fields...)
	}
	return malformedHeader(why, fields...)
}

// claimOf finds the credentials of r. It returns a claim of type Anonymous if there are none, and refuses more than one
// kind of them and the kinds that are not supported.
func claimOf(r *http.Request, t *target) (claim, error) {
	header := r.Header["Authorization"]
	query := t.presigned()
	if r.Method == http.MethodPost && isForm(first(r.Header, "Content-Type")) {
		if len(header) > 0 || query {
			return claim{}, multipleMechanisms()
		}
		return claim{}, refuse(http.StatusNotImplemented, "NotImplemented",
			"Uploads by HTML form (POST with a policy) are not implemented; use PUT with a presigned URL.")
	}
	_, v2 := t.get("AWSAccessKeyId")
	if len(header) > 0 && (query || v2 > 0) || query && v2 > 0 {
		return claim{}, multipleMechanisms()
	}
	if _, tokens := t.get(queryToken); (query || len(header) > 0) && (tokens > 0 || len(r.Header[headerToken]) > 0) {
		return claim{}, refuse(http.StatusBadRequest, "InvalidToken",
			"The provided token is malformed or otherwise invalid: this server issues no temporary credentials; send none.")
	}
	switch {
	case len(header) > 1:
		return claim{}, invalidArgument("Authorization", "", "There is more than one Authorization header.")
	case len(header) == 1:
		return headerClaim(r.Header, header[0])
	case query:
		return queryClaim(t)
	case v2 > 0:
		return claim{}, unsupportedVersion()
	}
	return claim{typ: Anonymous}, nil
}

func multipleMechanisms() *Error {
	return invalidArgument("Authorization", "", "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, "+
		"Signature query string parameter or the Authorization header should be specified")
}

func unsupportedVersion() *Error {
	return invalidRequest("The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256. " +
		"(Presigning needs Config(signature_version='s3v4') with boto3, and `aws configure set default.s3.signature_version s3v4` with the aws command.)")
}

func isForm(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	if media, _, err := mime.ParseMediaType(contentType); err == nil {
		return media == "multipart/form-data"
	}
	return strings.EqualFold(strings.TrimSpace(media), "multipart/form-data")
}

// presigned reports whether the query holds any parameter of a presigned request, in any case: a misspelt one must not
// turn a request with credentials into an anonymous one.
func (t *target) presigned() bool {
	for _, p := range t.params {
		if !hasPrefixFold(p.name, "X-Amz-") {
			continue
		}
		for _, name := range [...]string{queryAlgorithm, queryCredential, queryDate, queryExpires, querySignedHeaders, querySignature} {
			if strings.EqualFold(p.name, name) {
				return true
			}
		}
	}
	return false
}

// IsParameter reports whether name, in any case, is a query parameter that Verify reads itself.
func IsParameter(name string) bool {
	for _, own := range [...]string{queryAlgorithm, queryCredential, queryDate, queryExpires, querySignedHeaders, querySignature,
		queryToken, queryContentHash} {
		if strings.EqualFold(name, own) {
			return true
		}
	}
	return false
}

// headerClaim reads "AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…".
func headerClaim(h http.Header, value string) (claim, error) {
	c := claim{typ: Header}
	scheme, fields, _ := strings.Cut(strings.Trim(value, " \t"), " ")
	switch {
	case scheme == algorithm:
	case scheme == "AWS", strings.HasPrefix(scheme, "AWS4-"):
		return c, unsupportedVersion()
	default:
		return c, invalidArgument("Authorization", scheme, "Unsupported Authorization Type")
	}
	var credential string
	for field := range strings.SplitSeq(fields, ",") {
		name, value, _ := strings.Cut(strings.Trim(field, " \t"), "=")
		var to *string
		switch name {
		case "Credential":
			to = &credential
		case "SignedHeaders":
			to = &c.signedHeaders
		case "Signature":
			to = &c.signature
		default:
			return c, malformedHeader("it holds something else than Credential, SignedHeaders and Signature.")
		}
		if *to != "" || value == "" {
			return c, malformedHeader(name + " is empty or occurs twice.")
		}
		*to = value
	}
	if credential == "" || c.signedHeaders == "" || c.signature == "" {
		return c, malformedHeader("it needs Credential, SignedHeaders and Signature.")
	}
	if err := c.setCredential(credential); err != nil {
		return c, err
	}
	if err := c.setHeaderTime(h); err != nil {
		return c, err
	}
	return c, checkNames(c.signedHeaders, c.malformed)
}

// setHeaderTime takes the time of a request from x-amz-date, else from Date. Either is bound by the string to sign.
func (c *claim) setHeaderTime(h http.Header) error {
	if stamp := first(h, headerDate); stamp != "" {
		if !c.setStamp(stamp) {
			return accessDenied("AWS authentication requires a valid Date or x-amz-date header")
		}
		return nil
	}
	date := first(h, "Date")
	if c.setStamp(date) {
		return nil
	}
	t, err := http.ParseTime(date)
	if err != nil {
		return accessDenied("AWS authentication requires a valid Date or x-amz-date header")
	}
	c.time, c.stamp = t.UTC(), t.UTC().Format(stampForm)
	return nil
}

func (c *claim) setStamp(stamp string) bool {
	t, ok := parseStamp(stamp)
	if ok {
		c.time, c.stamp = t, stamp
	}
	return ok
}

// parseStamp reads a time in stampForm. time.Parse would read the form anew for each request, and takes fractions of a second.
func parseStamp(s string) (time.Time, bool) {
	if len(s) != len(stampForm) || s[8] != 'T' || s[15] != 'Z' {
		return time.Time{}, false
	}
	year, month, day := digits(s[0:4]), digits(s[4:6]), digits(s[6:8])
	hour, minute, second := digits(s[9:11]), digits(s[11:13]), digits(s[13:15])
	if min(year, hour, minute, second) < 0 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	return t, t.Day() == day // 31 April is 1 May
}

// digits returns the number that the decimal digits s are, negative if they are none.
func digits(s string) (n int) {
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			return -1
		}
		n = 10*n + int(d)
	}
	return n
}

// queryClaim reads the X-Amz-* parameters of a presigned request.
func queryClaim(t *target) (claim, error) {
	c := claim{typ: Presigned}
	var method, credential, stamp, expires string
	for _, f := range [...]struct {
		name string
		to   *string
	}{{queryAlgorithm, &method}, {queryCredential, &credential}, {queryDate, &stamp}, {queryExpires, &expires},
		{querySignedHeaders, &c.signedHeaders}, {querySignature, &c.signature}} {
		value, n := t.get(f.name)
		if n != 1 || value == "" {
			return c, malformedQuery("Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, " +
				"X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters, each once.")
		}
		*f.to = value
	}
	if method != algorithm {
		return c, malformedQuery(queryAlgorithm + ` only supports "` + algorithm + `"`)
	}
	if err := c.setCredential(credential); err != nil {
		return c, err
	}
	if !c.setStamp(stamp) {
		return c, malformedQuery(`X-Amz-Date must be in the ISO8601 Long Format "yyyyMMdd'T'HHmmss'Z'"`)
	}
	if err := c.setExpires(expires); err != nil {
		return c, err
	}
	return c, checkNames(c.signedHeaders, func(why string, _ ...Field) *Error { return malformedQuery(querySignedHeaders + ": " + why) })
}

func (c *claim) setExpires(text string) error {
	seconds, err := strconv.ParseInt(text, 10, 32)
	switch {
	case err != nil:
		return malformedQuery("X-Amz-Expires should be a number of seconds, at most 604800")
	case seconds <= 0:
		return malformedQuery("X-Amz-Expires must be positive")
	case time.Duration(seconds)*time.Second > maxExpires:
		return malformedQuery("X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds")
	}
	c.expires = time.Duration(seconds) * time.Second
	return nil
}

// setCredential splits accessKey/date/region/service/terminal from its end: an access key may hold slashes.
func (c *claim) setCredential(credential string) error {
	rest := credential
	for _, to := range [...]*string{&c.terminal, &c.service, &c.region, &c.date} {
		i := strings.LastIndexByte(rest, '/')
		if i < 0 {
			return c.malformed(`the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".`)
		}
		rest, *to = rest[:i], rest[i+1:]
	}
	if rest == "" {
		return c.malformed("the Credential has no access key.")
	}
	c.accessKey, c.scope = rest, credential[len(rest)+1:]
	return nil
}

// checkNames requires the names of signed headers to be lower-case tokens in order, each once. That is the only form
// clients sign, and a name with a line break would let one canonical request stand for two.
func checkNames(names string, malformed func(why string, _ ...Field) *Error) error {
	if strings.Count(names, ";") >= maxNames {
		return malformed("SignedHeaders holds more than " + strconv.Itoa(maxNames) + " names.")
	}
	previous, start := "", 0
	for i := 0; i <= len(names); i++ {
		if i < len(names) && names[i] != ';' {
			if !isNameByte(names[i]) {
				return malformed("a name in SignedHeaders is not a lower-case header name.")
			}
			continue
		}
		name := names[start:i]
		if name <= previous {
			return malformed("SignedHeaders is not sorted or holds a name twice or an empty one.")
		}
		previous, start = name, i+1
	}
	return nil
}

// isNameByte reports whether c may stand in a header's name, in lower case.
func isNameByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		return true
	}
	return strings.IndexByte("_.!#$%&'*+^`|~", c) >= 0
}

// checkScope requires the credential to be scoped to this service and its region, and to the day of the request.
func (v *Verifier) checkScope(c *claim) error {
	switch {
	case c.terminal != terminal:
		return c.malformed("incorrect terminal " + strconv.Quote(c.terminal) + `. This endpoint uses "` + terminal + `".`)
	case c.service != v.opt.Service:
		return c.malformed("incorrect service " + strconv.Quote(c.service) + ". This endpoint belongs to " + strconv.Quote(v.opt.Service) + ".")
	case v.opt.Region != "" && c.region != v.opt.Region:
		return c.malformed("the region "+strconv.Quote(c.region)+" is wrong; expecting "+strconv.Quote(v.opt.Region),
			Field{"Region", v.opt.Region})
	case c.region == "" || strings.ContainsFunc(c.region, func(r rune) bool { return r <= ' ' || r > '~' }):
		return c.malformed("the region is not a name.")
	case c.date != c.stamp[:len("20060102")]:
		return c.malformed("invalid credential date " + strconv.Quote(c.date) + ". This date is not the same as X-Amz-Date: " +
			strconv.Quote(c.stamp[:len("20060102")]) + ".")
	}
	return nil
}

// checkTime requires a request to be fresh, and a presigned one to be within its validity.
func (v *Verifier) checkTime(c *claim) error {
	now := v.opt.Now()
	if c.typ == Presigned {
		end := c.time.Add(c.expires)
		fields := []Field{{"X-Amz-Expires", strconv.FormatInt(int64(c.expires/time.Second), 10)},
			{"Expires", end.Format(time.RFC3339)}, {"ServerTime", now.UTC().Format(time.RFC3339)}}
		switch {
		case c.time.Sub(now) > v.opt.MaxSkew:
			return accessDenied("Request is not valid yet", fields...)
		case now.After(end):
			return accessDenied("Request has expired", fields...)
		}
		return nil
	}
	if now.Sub(c.time).Abs() > v.opt.MaxSkew {
		return tooSkewed(c, now, v.opt.MaxSkew)
	}
	return nil
}

// checkHeaders requires Host and all x-amz-* headers to be signed. Content-Type need not be: S3's clients add it after
// signing, and S3 accepts that.
func checkHeaders(h http.Header, signed string) error {
	var unsigned []string
	if !contains(signed, "host") {
		unsigned = append(unsigned, "host")
	}
	for key, values := range h {
		if hasPrefixFold(key, "X-Amz-") && !contains(signed, key) {
			unsigned = append(unsigned, strings.ToLower(key))
		}
		if err := checkSingle(key, values); err != nil {
			return err
		}
	}
	if len(unsigned) == 0 {
		return nil
	}
	slices.Sort(unsigned)
	return accessDenied("There were headers present in the request which were not signed",
		Field{"HeadersNotSigned", strings.Join(unsigned, ", ")})
}

// contains reports whether the list of names, separated by semicolons, holds name in any case.
func contains(list, name string) bool {
	for n := range strings.SplitSeq(list, ";") {
		if len(n) == len(name) && strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && s[0]|0x20 == prefix[0]|0x20 && strings.EqualFold(s[:len(prefix)], prefix)
}

// checkSingle refuses a second value of a header of which a handler reads one: a signature cannot tell two values from
// one that holds a comma.
func checkSingle(key string, values []string) error {
	if len(values) > 1 && single(strings.ToLower(key)) {
		return invalidArgument(key, "", "The header "+key+" occurs more than once.")
	}
	return nil
}

// single reports whether a header has one value by definition.
func single(name string) bool {
	switch name {
	case "x-amz-object-attributes", "x-amz-optional-object-attributes": // lists, sent as one header an element
		return false
	case "content-type", "content-md5", "date", "range":
		return true
	}
	return strings.HasPrefix(name, "x-amz-") && !strings.HasPrefix(name, "x-amz-meta-") || strings.HasPrefix(name, "if-")
}
