// Package telemetry is what Sluice tells its operators: the log and the metrics. It is the only package that knows the
// metrics library; the others expose numbers as structs and report events through callbacks that the gateway connects
// here. It decides nothing and keeps no state but its numbers.
package telemetry

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/sluicefs/sluice/core"
)

// NewLogger returns a logger that writes to w. level is debug, info, warn or error; format is text, json, or auto: text if
// w is a terminal, else json. Records made with a context that carries a request id name it as "req".
func NewLogger(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // validated by the configuration; info otherwise
	o := &slog.HandlerOptions{Level: l}
	if format == "json" || format == "auto" && !IsTerminal(w) {
		return slog.New(requestHandler{slog.NewJSONHandler(w, o)})
	}
	return slog.New(requestHandler{slog.NewTextHandler(w, o)})
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// requestHandler adds the id of the request that a record's context serves, unless the record names it itself.
type requestHandler struct{ slog.Handler }

const requestKey = "req"

func (h requestHandler) Handle(ctx context.Context, r slog.Record) error {
	id := core.RequestID(ctx)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == requestKey {
			id = ""
		}
		return id != ""
	})
	if id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String(requestKey, id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h requestHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestHandler{h.Handler.WithAttrs(attrs)}
}

func (h requestHandler) WithGroup(name string) slog.Handler {
	return requestHandler{h.Handler.WithGroup(name)}
}

// AtLeast returns l without what is below level, for a part that tells more than anybody wants to read.
func AtLeast(l *slog.Logger, level slog.Level) *slog.Logger {
	return slog.New(levelHandler{l.Handler(), level})
}

type levelHandler struct {
	slog.Handler
	least slog.Level
}

func (h levelHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.least && h.Handler.Enabled(ctx, level)
}

func (h levelHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return levelHandler{h.Handler.WithAttrs(attrs), h.least}
}

func (h levelHandler) WithGroup(name string) slog.Handler {
	return levelHandler{h.Handler.WithGroup(name), h.least}
}
