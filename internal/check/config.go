package check

import (
	"context"
	"log/slog"
	"strings"
	"sync"

	"github.com/katadirect/katadirect/pkg/runtime/config"
)

// checkConfig reads Kata's configuration as the shim will. With one that cannot be read the later checks look at the
// default's values.
func checkConfig(path string) ([]Finding, config.Config) {
	const name = "configuration"
	heard := &listener{}
	c, err := config.Load(path, slog.New(heard))
	if err != nil {
		return []Finding{failure(name, "correct the file: every pod of the runtime will fail with it", "%v", err)}, config.Default()
	}
	findings := []Finding{}
	if c.Path == "" {
		findings = append(findings, ok(name, "there is no configuration.toml, so the defaults hold"))
	} else {
		findings = append(findings, ok(name, "%s", c.Path))
	}
	if c.Hypervisor.DisableBlock {
		// Kata's own Go runtime ships it and then silently shares the empty folder instead.
		findings = append(findings, failure(name, "set disable_block_device_use = false in [hypervisor.qemu] of "+c.Path,
			"disable_block_device_use is true: no volume can be plugged into a machine"))
	}
	for _, line := range heard.lines {
		findings = append(findings, warning(name, "check that the keys are meant; Kata's own runtime may honour them", "%s", line))
	}
	return findings, c
}

// listener is a slog.Handler that keeps warnings as lines.
type listener struct {
	mu    sync.Mutex
	lines []string
}

func (l *listener) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (l *listener) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *listener) WithGroup(string) slog.Handler                    { return l }

func (l *listener) Handle(_ context.Context, r slog.Record) error {
	line := []string{r.Message}
	r.Attrs(func(a slog.Attr) bool {
		line = append(line, a.Value.String())
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, strings.Join(line, ": "))
	return nil
}
