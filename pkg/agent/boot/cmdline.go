package boot

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

// Params are the agent's settings on the kernel's command line, under Kata's
// names. The zero value of a field means that nothing was said.
type Params struct {
	// LogLevel is agent.log; Info where nothing was said.
	LogLevel slog.Level
	// ServerAddr is agent.server_addr: where to listen.
	ServerAddr string
	// HotplugTimeout is agent.hotplug_timeout, whole seconds on the command
	// line.
	HotplugTimeout time.Duration
	// PipeSize is agent.container_pipe_size, in bytes.
	PipeSize int
	// DebugConsole is agent.debug_console, with or without "=true".
	DebugConsole bool
	// DebugConsolePort is agent.debug_console_vport, a vsock port; 0 where
	// nothing was said.
	DebugConsolePort int
}

// ReadCmdline reads the running kernel's command line.
func ReadCmdline() (Params, error) {
	data, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return Params{}, fmt.Errorf("kernel command line: %w", err)
	}
	return ParseCmdline(string(data)), nil
}

// ParseCmdline reads a kernel command line. Settings it does not know, and
// values that make no sense, are left alone, as Kata's agent does: a machine
// that boots with a warning is worth more than one that does not boot. The
// last of several settings counts.
func ParseCmdline(cmdline string) Params {
	p := Params{LogLevel: slog.LevelInfo}
	for _, word := range splitCmdline(cmdline) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "agent.log":
			if level, ok := logLevels[value]; ok {
				p.LogLevel = level
			}
		case "agent.server_addr":
			p.ServerAddr = value
		case "agent.hotplug_timeout":
			if seconds, ok := positive(value); ok {
				p.HotplugTimeout = time.Duration(seconds) * time.Second
			}
		case "agent.debug_console":
			p.DebugConsole = value == "" || value == "true" || value == "1"
		case "agent.debug_console_vport":
			if port, ok := positive(value); ok {
				p.DebugConsolePort = port
			}
		case "agent.container_pipe_size":
			if size, ok := positive(value); ok {
				p.PipeSize = size
			}
		}
	}
	return p
}

// logLevels are the levels of Kata's agent; slog has fewer.
var logLevels = map[string]slog.Level{
	"trace": slog.LevelDebug, "debug": slog.LevelDebug,
	"info": slog.LevelInfo,
	"warn": slog.LevelWarn, "warning": slog.LevelWarn,
	"error": slog.LevelError, "critical": slog.LevelError, "fatal": slog.LevelError, "panic": slog.LevelError,
}

// positive reads a number from 1 to what a day has in seconds, or a pipe in
// bytes: more is a mistake.
func positive(s string) (int, bool) {
	const most = 1 << 30
	n, err := strconv.Atoi(s)
	return n, err == nil && n > 0 && n <= most
}

// splitCmdline splits at blanks outside of double quotes, and takes the quotes
// away.
func splitCmdline(s string) []string {
	quoted := false
	words := strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\n' || r == '\t')
	})
	for i := range words {
		words[i] = strings.ReplaceAll(words[i], `"`, "")
	}
	return words
}
