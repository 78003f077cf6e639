package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Of lines that say the same, these many a second are written, and then every
// hundredth.
const (
	logFirst      = 5
	logThereafter = 100
)

// newLogger returns a logger for people, or with asJSON for programs, that writes
// to w. Repeated lines are sampled.
func newLogger(w io.Writer, level zapcore.LevelEnabler, asJSON bool) *zap.Logger {
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
			e.TimeKey = zapcore.OmitKey // the journal has it
		}
		encoder = zapcore.NewConsoleEncoder(e)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level)
	return zap.New(zapcore.NewSamplerWithOptions(core, time.Second, logFirst, logThereafter))
}

// zapHandler is a slog.Handler that writes to a zap core, for the client library.
type zapHandler struct{ core zapcore.Core }

// zapLevel converts a slog level: DEBUG is -4 and INFO is 0 there, -1 and 0 in zap.
func zapLevel(l slog.Level) zapcore.Level {
	return zapcore.Level(min(max(int(l)/4, int(zapcore.DebugLevel)), int(zapcore.ErrorLevel)))
}

func (h zapHandler) Enabled(_ context.Context, l slog.Level) bool { return h.core.Enabled(zapLevel(l)) }

func (h zapHandler) Handle(_ context.Context, r slog.Record) error {
	entry := h.core.Check(zapcore.Entry{Level: zapLevel(r.Level), Time: r.Time, Message: r.Message}, nil)
	fields := make([]zapcore.Field, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		fields = append(fields, zap.Any(a.Key, a.Value.Any()))
		return true
	})
	entry.Write(fields...)
	return nil
}

func (h zapHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var fields []zapcore.Field
	for _, a := range attrs {
		fields = append(fields, zap.Any(a.Key, a.Value.Any()))
	}
	return zapHandler{h.core.With(fields)}
}

// WithGroup ignores the group: the client library uses none.
func (h zapHandler) WithGroup(string) slog.Handler { return h }
