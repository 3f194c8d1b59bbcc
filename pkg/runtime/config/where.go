package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// wrongError is a value that cannot be meant, by its key without the table.
type wrongError struct {
	key string
	err error
}

func (e *wrongError) Error() string { return e.err.Error() }
func (e *wrongError) Unwrap() error { return e.err }

// wrong makes a wrongError.
func wrong(key, format string, args ...any) error {
	return &wrongError{key, fmt.Errorf(format, args...)}
}

// places are where keys were set last: "hypervisor.qemu.kernel" to "FILE, line 12".
type places map[string]string

// note reads where the keys of a file are. What is no TOML has none; the decoder says why.
func (p places) note(file string, text []byte) {
	var parser unstable.Parser
	parser.Reset(text)
	table := ""
	for parser.NextExpression() {
		e := parser.Expression()
		var path []string
		line := 0
		for key := e.Key(); key.Next(); {
			node := key.Node()
			path = append(path, string(node.Data))
			line = parser.Shape(node.Raw).Start.Line
		}
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = strings.Join(path, ".") + "."
		case unstable.KeyValue:
			p[table+strings.Join(path, ".")] = fmt.Sprintf("%s, line %d", file, line)
		}
	}
}

// locate adds to each error of a value where it was set.
func (p places) locate(file string, err error) error {
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		var all []error
		for _, e := range several.Unwrap() {
			all = append(all, p.locate(file, e))
		}
		return errors.Join(all...)
	}
	place := file
	var value *wrongError
	if errors.As(err, &value) {
		for key, at := range p {
			if key == value.key || strings.HasSuffix(key, "."+value.key) {
				place = at
			}
		}
	}
	return fmt.Errorf("configuration %s: %w", place, err)
}
