package csi

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callLog writes the lines of one call, each with what the call is about. A logger of its own would be made for every
// call, and written to by few.
type callLog struct {
	log   *slog.Logger
	about []slog.Attr
}

func (l callLog) write(ctx context.Context, level slog.Level, message string, more ...slog.Attr) {
	if l.log.Enabled(ctx, level) {
		l.log.LogAttrs(ctx, level, message, append(slices.Clip(l.about), more...)...)
	}
}

// quiet are the calls that change nothing and come often.
var quiet = []string{
	"GetPluginInfo", "GetPluginCapabilities", "Probe", "ControllerGetCapabilities", "GetCapacity",
	"ValidateVolumeCapabilities", "ListVolumes", "ListSnapshots", "ControllerGetVolume", "NodeGetCapabilities", "NodeGetInfo", "NodeGetVolumeStats", "NodeGetVolumeHealth",
	"NodeGetStorageHealth", "ControllerGetVolumeHealth", "ControllerListVolumeHealth",
	"GroupControllerGetCapabilities", "GetSnapshot", "GetVolumeGroupSnapshot",
}

// done writes as loudly as the outcome deserves. ABORTED is quiet: that call is repeated anyway.
func (l callLog) done(ctx context.Context, method string, err error, took time.Duration) {
	code := status.Code(err)
	level, message := slog.LevelWarn, "refused"
	switch {
	case code == codes.Aborted, code == codes.OK && slices.Contains(quiet, method):
		level, message = slog.LevelDebug, "done"
	case code == codes.OK:
		level, message = slog.LevelInfo, "done"
	case code == codes.Internal, code == codes.Unknown, code == codes.DataLoss:
		level, message = slog.LevelError, "failed"
	}
	more := []slog.Attr{slog.String("code", code.String()), slog.Duration("took", took)}
	if level > slog.LevelInfo {
		more = append(more, slog.String("error", status.Convert(err).Message()))
	}
	l.write(ctx, level, message, more...)
}
