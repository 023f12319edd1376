package remote

import "context"

// MaxCalls is how many calls of a stream may be in progress, MaxSessionAnswers how many answers of a session are remembered.
const (
	MaxCalls          = maxCalls
	MaxSessionAnswers = maxSessionAnswers
)

// SetPage sets how many entries a page of a listing has. It comes before the server is registered.
func (s *Server) SetPage(n int) { s.page = n }

// Echo has the server answer with s.
func (c *Client) Echo(ctx context.Context, s string) (string, error) { return c.echo(ctx, s) }
