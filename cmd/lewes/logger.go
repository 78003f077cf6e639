package main

import (
	"io"
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
