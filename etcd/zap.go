package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// bridge is a zapcore.Core that hands etcd's log to slog. Below Warn everything is Debug: etcd's Info tells of its own
// machinery. While the member stops, so are its complaints about listeners that are closed.
type bridge struct {
	log      *slog.Logger
	fields   []zapcore.Field
	stopping *atomic.Bool
}

// usual reports whether the message is one of those that every start of a single member gives, and that say nothing of
// this set-up.
func usual(message string) bool {
	switch message {
	case "Running http and grpc server on single port. This is not recommended for production.",
		"simple token is not cryptographically signed",                        // authentication is not used
		"Failed to detect schema version", "failed to update storage version": // a new database; tried again after the first commit
		return true
	}
	// A start on a busy machine: the member calls its first election again a moment later.
	return strings.HasSuffix(message, "cannot campaign at term 1 since there are still pending configuration changes to apply")
}

// zapLogger returns a logger for etcd over l. A fatal entry panics instead of ending the process, so that Start can return
// it; in a goroutine of etcd's it still ends the process, as it must: etcd could not write.
func zapLogger(l *slog.Logger, stopping *atomic.Bool) *zap.Logger {
	return zap.New(bridge{log: l, stopping: stopping}, zap.WithFatalHook(panicHook{}))
}

func (b bridge) level(e zapcore.Entry) slog.Level {
	switch {
	case e.Level < zapcore.WarnLevel || usual(e.Message):
		return slog.LevelDebug
	case e.Level < zapcore.PanicLevel && b.stopping.Load():
		return slog.LevelDebug
	case e.Level == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}

// Enabled implements zapcore.Core.
func (b bridge) Enabled(l zapcore.Level) bool {
	return b.log.Enabled(context.Background(), b.level(zapcore.Entry{Level: l}))
}

// With implements zapcore.Core.
func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{log: b.log, stopping: b.stopping, fields: slices.Concat(b.fields, fields)}
}

// Check implements zapcore.Core.
func (b bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return c.AddCore(e, b)
	}
	return c
}

// Write implements zapcore.Core.
func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := encode(slices.Concat(b.fields, fields))
	attrs := make([]slog.Attr, 0, len(values))
	for _, k := range slices.Sorted(maps.Keys(values)) {
		attrs = append(attrs, slog.Any(k, values[k]))
	}
	b.log.LogAttrs(context.Background(), b.level(e), "etcd: "+e.Message, attrs...)
	return nil
}

// Sync implements zapcore.Core.
func (b bridge) Sync() error { return nil }

func encode(fields []zapcore.Field) map[string]any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	return enc.Fields
}

// panicHook panics with a fatal entry's message and error.
type panicHook struct{}

// OnWrite implements zapcore.CheckWriteHook.
func (panicHook) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	if err, ok := encode(fields)["error"]; ok {
		panic(fmt.Sprintf("%s: %v", e.Message, err))
	}
	panic(e.Message)
}
