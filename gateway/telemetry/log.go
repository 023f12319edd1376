// Package telemetry is what Sluice tells its operators: the log and the metrics. It is the only package that knows the
// metrics library; the others expose numbers as structs and report events through callbacks that the gateway connects
// here. It decides nothing and keeps no state but its numbers.
package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
)

// NewLogger returns a logger that writes to w. level is debug, info, warn or error; format is text, json, or auto: text if
// w is a terminal, else json. Records made with a context that carries a request id name it as "req". If w is Lines, records
// from warn on, and what is before them, are flushed at once.
func NewLogger(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // validated by the configuration; info otherwise
	o := &slog.HandlerOptions{Level: l}
	lines, _ := w.(*Lines)
	if format == "json" || format == "auto" && !IsTerminal(w) {
		return slog.New(requestHandler{slog.NewJSONHandler(w, o), lines})
	}
	return slog.New(requestHandler{slog.NewTextHandler(w, o), lines})
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	if l, ok := w.(*Lines); ok {
		w = l.w
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// requestHandler adds the id of the request that a record's context serves, unless the record names it itself.
type requestHandler struct {
	slog.Handler
	lines *Lines // nil if nothing gathers
}

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
	err := h.Handler.Handle(ctx, r)
	if h.lines != nil && r.Level >= slog.LevelWarn {
		err = errors.Join(err, h.lines.Flush())
	}
	return err
}

func (h requestHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestHandler{h.Handler.WithAttrs(attrs), h.lines}
}

func (h requestHandler) WithGroup(name string) slog.Handler {
	return requestHandler{h.Handler.WithGroup(name), h.lines}
}

// Lines gathers the lines of a log and writes them some at a time: a system call for each request's line, one after the
// other under the log's lock, costs more than the line. A process that is killed loses those of the last moment. It is safe for
// concurrent use.
type Lines struct {
	w     io.Writer
	timer *time.Timer

	writing sync.Mutex // held while w is written to; taken before mu
	mu      sync.Mutex
	b, free []byte // what is gathered, and memory for what comes next
}

const (
	lineDelay = 50 * time.Millisecond // how long a line waits for others at most
	lineBytes = 64 << 10              // gathered beyond this, lines are written at once
)

// NewLines returns Lines that write to w, at once if it is a terminal. They must be closed.
func NewLines(w io.Writer) *Lines {
	l := &Lines{w: w}
	if !IsTerminal(w) {
		l.timer = time.AfterFunc(lineDelay, func() { _ = l.Flush() }) // the log is where its own failure would be told
	}
	return l
}

// Write implements io.Writer. Errors of the writer below are seen by Flush and Close, and by the Write that flushes.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	first := len(l.b) == 0
	l.b = append(l.b, p...)
	full := len(l.b) > lineBytes
	l.mu.Unlock()
	switch {
	case full || l.timer == nil:
		return len(p), l.Flush()
	case first:
		l.timer.Reset(lineDelay)
	}
	return len(p), nil
}

// Flush writes what is gathered.
func (l *Lines) Flush() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	b := l.b
	l.b, l.free = l.free, nil
	l.mu.Unlock()
	if len(b) == 0 {
		return nil
	}
	_, err := l.w.Write(b)
	if cap(b) <= 2*lineBytes {
		l.mu.Lock()
		l.free = b[:0]
		l.mu.Unlock()
	}
	return err
}

// Close writes what is gathered. Nothing may be written after it.
func (l *Lines) Close() error {
	if l.timer != nil {
		l.timer.Stop()
	}
	return l.Flush()
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
