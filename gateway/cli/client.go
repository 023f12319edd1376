package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sluicefs/sluice/gateway"
	"github.com/sluicefs/sluice/gateway/admin"
	"github.com/sluicefs/sluice/gateway/config"
)

const adminURLVariable = "SLUICE_ADMIN_URL"

// client calls the admin API. Its flags are filled by the command line.
type client struct {
	url, data, output string
}

// addFlags defines the flags that every command of the client has.
func (c *client) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.url, "admin-url", "", "URL of the admin API (environment: "+adminURLVariable+"; default http://127.0.0.1:9001)")
	fs.StringVar(&c.data, "data", "", "data directory whose root key pair is used unless SLUICE_ROOT_ACCESS_KEY and SLUICE_ROOT_SECRET_KEY are set (environment: SLUICE_DATA; default ./sluice-data)")
	fs.StringVarP(&c.output, "output", "o", "table", "table or json")
}

// check reports a mistake in the flags.
func (c *client) check() error {
	if c.output != "table" && c.output != "json" {
		return usageError{fmt.Errorf("--output is table or json, not %q", c.output)}
	}
	return nil
}

func (c *client) json() bool { return c.output == "json" }

// keys returns the key pair to authenticate with: the environment's, else that of the data directory.
func (c *client) keys() (config.Root, error) {
	access, err := fromEnv("SLUICE_ROOT_ACCESS_KEY")
	if err != nil {
		return config.Root{}, err
	}
	secret, err := fromEnv("SLUICE_ROOT_SECRET_KEY")
	if err != nil {
		return config.Root{}, err
	}
	if access != "" && secret != "" {
		return config.Root{AccessKey: access, SecretKey: config.Secret(secret)}, nil
	}
	dir := cmp.Or(c.data, os.Getenv("SLUICE_DATA"), config.Default().Data)
	root, err := gateway.ReadCredentials(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return root, fmt.Errorf("no key pair: %s has none; set SLUICE_ROOT_ACCESS_KEY and SLUICE_ROOT_SECRET_KEY, or name the data directory of the running process with --data", dir)
	}
	return root, err
}

// fromEnv returns the value of a variable, or what the file holds that the variable with _FILE appended names.
func fromEnv(name string) (string, error) {
	if value := os.Getenv(name); value != "" {
		return value, nil
	}
	file := os.Getenv(name + "_FILE")
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	return strings.TrimRight(string(b), "\r\n"), err
}

// query is the query of a request.
type query map[string]string

// send makes a request below /api/v1 and returns the response if it is a success; the caller closes its body.
func (c *client) send(ctx context.Context, method, path string, q query, contentType string, body io.Reader, size int64) (*http.Response, error) {
	root, err := c.keys()
	if err != nil {
		return nil, err
	}
	base := strings.TrimSuffix(cmp.Or(c.url, os.Getenv(adminURLVariable), "http://127.0.0.1:9001"), "/")
	values := url.Values{}
	for name, value := range q {
		values.Set(name, value)
	}
	r, err := http.NewRequestWithContext(ctx, method, base+"/api/v1"+path+"?"+values.Encode(), body)
	if err != nil {
		return nil, fmt.Errorf("%q is not a URL; set --admin-url or %s to one such as http://127.0.0.1:9001", base, adminURLVariable)
	}
	r.SetBasicAuth(root.AccessKey, root.SecretKey.Reveal())
	if body != nil {
		r.ContentLength = size
		r.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		if cause, ok := errors.AsType[*url.Error](err); ok {
			err = cause.Err // the URL is in the message already
		}
		return nil, fmt.Errorf("no answer from the admin API at %s: %w; start it with `sluice serve`, or say where it is with --admin-url or %s", base, err, adminURLVariable)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, problemOf(resp)
	}
	return resp, nil
}

// apiError is a problem that the API answered.
type apiError struct {
	status  int
	message string
}

func (e *apiError) Error() string { return e.message }

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*apiError](err)
	return ok && e.status == status
}

// problemOf renders the problem in resp on one line.
func problemOf(resp *http.Response) error {
	e := &apiError{status: resp.StatusCode, message: resp.Status}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var p admin.Problem
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if mediaType != "application/problem+json" || json.Unmarshal(b, &p) != nil {
		e.message = fmt.Sprintf("%s is not the admin API of Sluice: it answered %s; set --admin-url or %s", resp.Request.URL.Host, resp.Status, adminURLVariable)
		return e
	}
	e.message = p.Detail
	for _, d := range p.Errors {
		e.message += fmt.Sprintf("; %s: %s", strings.TrimPrefix(d.Location, "body."), d.Message)
	}
	if id := resp.Header.Get("X-Request-Id"); resp.StatusCode >= 500 && id != "" {
		e.message += " (request " + id + " in the log)"
	}
	return e
}

// call makes a request with the body in, if not nil, and decodes the answer into out, if not nil; both are JSON.
func (c *client) call(ctx context.Context, method, path string, q query, in, out any) error {
	var body io.Reader
	var size int64
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body, size = bytes.NewReader(b), int64(len(b))
	}
	resp, err := c.send(ctx, method, path, q, "application/json", body, size)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// showList gets the list at path and shows it as printList does. what says in an error what was to be done.
func showList[T any](cmd *cobra.Command, c *client, s Streams, path string, q query, what, columns string, row func(w io.Writer, x *T)) error {
	if err := c.check(); err != nil {
		return err
	}
	var list admin.List[T]
	if err := c.call(cmd.Context(), http.MethodGet, path, q, nil, &list); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return printList(c, s, list, columns, row)
}

// printList writes a list as JSON or as a table, of which columns is the first line and row writes that of one item; between
// cells are tabs.
func printList[T any](c *client, s Streams, list admin.List[T], columns string, row func(w io.Writer, x *T)) error {
	if c.json() {
		return printJSON(s.Out, list)
	}
	w := newTable(s.Out)
	fmt.Fprintln(w, columns)
	for i := range list.Items {
		row(w, &list.Items[i])
	}
	return w.Flush()
}

// newTable returns a table whose cells are written with tabs between them, and which is written to out when it is flushed.
func newTable(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }

// printJSON writes v, indented.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
