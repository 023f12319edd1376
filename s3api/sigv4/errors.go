package sigv4

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Error is a refusal, in AWS's terms. It holds no secret and no expected signature, and may be shown to the client.
type Error struct {
	Code    string  // AWS's error code, "SignatureDoesNotMatch"
	Status  int     // the HTTP status AWS answers it with
	Message string  // what failed and, where AWS's text leaves it open, what to do
	Fields  []Field // further elements of the <Error> document, in order
}

// Field is one further element of AWS's <Error> document, such as StringToSign.
type Field struct{ Name, Value string }

// Error returns code and message, without the fields.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Field returns the value of the named field, "" if there is none.
func (e *Error) Field(name string) string {
	for _, f := range e.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

func refuse(status int, code, message string, fields ...Field) *Error {
	return &Error{Code: code, Status: status, Message: message, Fields: fields}
}

func invalidRequest(message string) *Error {
	return refuse(http.StatusBadRequest, "InvalidRequest", message)
}

func invalidArgument(name, value, message string) *Error {
	return refuse(http.StatusBadRequest, "InvalidArgument", message, Field{"ArgumentName", name}, Field{"ArgumentValue", value})
}

func invalidURI(why string) *Error {
	return refuse(http.StatusBadRequest, "InvalidURI", "Couldn't parse the specified URI: "+why)
}

func accessDenied(message string, fields ...Field) *Error {
	return refuse(http.StatusForbidden, "AccessDenied", message, fields...)
}

func malformedHeader(why string, fields ...Field) *Error {
	return refuse(http.StatusBadRequest, "AuthorizationHeaderMalformed", "The authorization header is malformed; "+why, fields...)
}

func malformedQuery(why string, fields ...Field) *Error {
	return refuse(http.StatusBadRequest, "AuthorizationQueryParametersError", why, fields...)
}

func unknownKey(accessKey string) *Error {
	return refuse(http.StatusForbidden, "InvalidAccessKeyId",
		"The AWS Access Key Id you provided does not exist in our records.", Field{"AWSAccessKeyId", accessKey})
}

func tooSkewed(c *claim, now time.Time, limit time.Duration) *Error {
	return refuse(http.StatusForbidden, "RequestTimeTooSkewed",
		"The difference between the request time and the current time is too large.",
		Field{"RequestTime", c.stamp}, Field{"ServerTime", now.UTC().Format(time.RFC3339)},
		Field{"MaxAllowedSkewMilliseconds", strconv.FormatInt(limit.Milliseconds(), 10)})
}

// signatureMismatch tells the client what was signed here, so that it can compare; never the signature that would do.
func signatureMismatch(c *claim, canonical []byte) *Error {
	return refuse(http.StatusForbidden, "SignatureDoesNotMatch",
		"The request signature we calculated does not match the signature you provided. Check your key and signing method.",
		Field{"AWSAccessKeyId", c.accessKey},
		Field{"StringToSign", string(appendStringToSign(nil, c, canonical))},
		Field{"SignatureProvided", c.signature},
		Field{"CanonicalRequest", redact(string(canonical))})
}

func chunkMismatch(what string) *Error {
	return refuse(http.StatusForbidden, "SignatureDoesNotMatch",
		"The signature of "+what+" does not match its content. Check your key and signing method.")
}

func hashMismatch(claimed, computed string) *Error {
	return refuse(http.StatusBadRequest, "XAmzContentSHA256Mismatch",
		"The provided 'x-amz-content-sha256' header does not match what was computed.",
		Field{"ClientComputedContentSHA256", claimed}, Field{"S3ComputedContentSHA256", computed})
}

func incompleteBody(why string) *Error {
	return refuse(http.StatusBadRequest, "IncompleteBody",
		"You did not provide the number of bytes specified by the Content-Length HTTP header or the chunks: "+why)
}

func malformedTrailer(why string) *Error {
	return refuse(http.StatusBadRequest, "MalformedTrailerError",
		"The request contained trailing data that was not well-formed or did not conform to our published schema: "+why)
}

// redact hides the values of the headers of a canonical request that are secrets themselves.
func redact(canonical string) string {
	lines := strings.Split(canonical, "\n")
	for i, line := range lines {
		name, _, _ := strings.Cut(line, ":")
		switch name {
		case "x-amz-server-side-encryption-customer-key", "x-amz-copy-source-server-side-encryption-customer-key":
			lines[i] = name + ":***"
		}
	}
	return strings.Join(lines, "\n")
}
