package admin

import (
	"cmp"
	"crypto/rand"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humamux"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// What concerns the cluster is answered by its leading master. Every other process of the cluster answers it all the same:
// it decides who asks, and hands the request on.

// ofTheLeader marks the operations that the leading master answers.
const ofTheLeader = "leader"

// clusterOperation is an operation that the leading master answers, whichever process is asked.
func clusterOperation(id, method, path, summary string) huma.Operation {
	o := operation(id, method, path, summary)
	o.Metadata = map[string]any{ofTheLeader: true}
	return o
}

// forward hands an operation of the leader's on, with what the caller sent.
func (s *Server) forward(ctx huma.Context, next func(huma.Context)) {
	if _, leads := ctx.Operation().Metadata[ofTheLeader]; !leads || s.o.Forward == nil {
		next(ctx)
		return
	}
	r, w := humamux.Unwrap(ctx)
	resp, err := s.o.Forward.RoundTrip(r)
	if err != nil {
		recordOf(r.Context()).err = err
		writeProblem(w, problem(err))
		return
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(w, resp.Body); err != nil {
		recordOf(r.Context()).err = err
		panic(http.ErrAbortHandler) // only a cut connection can say that the response is not whole
	}
}

// Trusted serves like s, but takes the principal of a request's context for who asks, and its request id for the request's: it
// is for requests that another process of the cluster has handed on.
func (s *Server) Trusted() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.serve(s.trusted, w, r, cmp.Or(core.RequestID(r.Context()), rand.Text()))
	})
}

// absent is the error of an operation that this process has nothing to answer with.
func absent(op string) error {
	return errs.New("admin."+op, "", errs.Unsupported, "this process is none of a cluster that could")
}
