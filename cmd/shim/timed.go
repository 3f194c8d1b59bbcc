package main

import (
	"context"
	"path"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/ttrpc"

	"github.com/katadirect/katadirect/internal/calltimes"
)

// timed counts how long calls take. Only methods that there are get here.
func timed(times *calltimes.Times, next ttrpc.UnaryServerInterceptor) ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, call ttrpc.Method) (any, error) {
		began := time.Now()
		defer func() { times.Took(action(info.FullMethod), time.Since(began)) }()
		return next(ctx, unmarshal, info, call)
	}
}

// action is a method's name in Kata's metrics: resize_pty for /containerd.task.v2.Task/ResizePty.
func action(method string) string {
	name := strings.ReplaceAll(path.Base(method), "IO", "Io")
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
