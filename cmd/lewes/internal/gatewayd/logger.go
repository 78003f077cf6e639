package gatewayd

import (
	"context"
	"io"
	"log/slog"
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLogger returns a logger that writes console lines, or JSON, to w. Of each message, the first ten of a
// minute are written, then their count.
func NewLogger(w io.Writer, level zapcore.LevelEnabler, asJSON bool) *zap.Logger {
	bounded, _ := newLoggers(w, level, asJSON)
	return zap.New(bounded)
}

// newLoggers returns the core of NewLogger, and a logger for the lines that are always written.
func newLoggers(w io.Writer, level zapcore.LevelEnabler, asJSON bool) (bounded *boundedCore, all *zap.Logger) {
	e := zap.NewProductionEncoderConfig()
	e.EncodeTime = zapcore.ISO8601TimeEncoder
	e.EncodeDuration = zapcore.StringDurationEncoder
	var encoder zapcore.Encoder
	if asJSON {
		encoder = zapcore.NewJSONEncoder(e)
	} else {
		e.EncodeLevel = zapcore.CapitalLevelEncoder
		e.ConsoleSeparator = "  "
		if os.Getenv("JOURNAL_STREAM") != "" {
			e.TimeKey = zapcore.OmitKey // the journal adds it
		}
		encoder = zapcore.NewConsoleEncoder(e)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level)
	return &boundedCore{core, new(logCounts)}, zap.New(core)
}

// Slog returns a slog.Logger that writes to l, for the client library.
func Slog(l *zap.Logger) *slog.Logger { return slog.New(slogHandler{l.Core()}) }

type slogHandler struct{ core zapcore.Core }

// zapLevel converts a level: DEBUG is -4 in slog and -1 in zap, INFO is 0 in both.
func zapLevel(l slog.Level) zapcore.Level {
	return zapcore.Level(min(max(int(l)/4, int(zapcore.DebugLevel)), int(zapcore.ErrorLevel)))
}

func (h slogHandler) Enabled(_ context.Context, l slog.Level) bool {
	return h.core.Enabled(zapLevel(l))
}

func (h slogHandler) Handle(_ context.Context, r slog.Record) error {
	entry := h.core.Check(zapcore.Entry{Level: zapLevel(r.Level), Time: r.Time, Message: r.Message}, nil)
	fields := make([]zapcore.Field, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		fields = append(fields, zap.Any(a.Key, a.Value.Any()))
		return true
	})
	entry.Write(fields...)
	return nil
}

func (h slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var fields []zapcore.Field
	for _, a := range attrs {
		fields = append(fields, zap.Any(a.Key, a.Value.Any()))
	}
	return slogHandler{h.core.With(fields)}
}

// WithGroup ignores the group: the client library uses none.
func (h slogHandler) WithGroup(string) slog.Handler { return h }
