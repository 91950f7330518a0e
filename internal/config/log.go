package config

import (
	"io"
	"log/slog"
)

// Log is the section `log:`.
type Log struct {
	// Level is the least severe level that is written. Default: info.
	Level string `yaml:"level,omitempty" jsonschema:"enum=debug,enum=info,enum=warn,enum=error"`
	// Format is text (key=value) or json. Default: text.
	Format string `yaml:"format,omitempty" jsonschema:"enum=text,enum=json"`
}

// Severity is Level as slog has it.
func (l Log) Severity() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		level = slog.LevelInfo // a Log that was not decoded
	}
	return level
}

// Logger returns a logger that writes to w. The level is l's, or what it is set to afterwards where one is given.
func (l Log) Logger(w io.Writer, level *slog.LevelVar) *slog.Logger {
	if level == nil {
		level = &slog.LevelVar{}
	}
	level.Set(l.Severity())
	opts := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
