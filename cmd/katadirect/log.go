package main

import (
	"io"
	"log/slog"
)

// logTo is the log of commands that work for long: one line for each thing that was done.
func logTo(out io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(out, nil)) }
