package csi

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/csi/telemetry"
)

// interceptor is what every call passes through: it gets a number, its panic is caught, its error gets a code, and
// it leaves one line in the log.
type interceptor struct {
	log    *slog.Logger
	calls  *telemetry.Calls
	note   func(request any, method string, err error)
	number atomic.Uint64 // of the latest call
}

func (i *interceptor) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	ctx = telemetry.WithRequest(ctx, i.number.Add(1))
	end := i.calls.Begin(method)
	log := i.log.With("method", method)
	if named, ok := request.(interface{ GetVolumeId() string }); ok {
		telemetry.TraceVolume(ctx, named.GetVolumeId())
		log = log.With("volume", named.GetVolumeId())
	} else if named, ok := request.(interface{ GetName() string }); ok {
		log = log.With("name", named.GetName())
	}
	log.DebugContext(ctx, "call", "body", loggable{request})
	start := time.Now()
	response, err := recovered(ctx, log, request, handle)
	err = toStatus(err)
	end(status.Code(err))
	i.note(request, method, err)
	logCall(ctx, log, method, err, time.Since(start))
	if err != nil {
		return nil, err
	}
	return response, nil
}

// recovered turns a panic into an error: one bad request must not end the calls of all other pods.
func recovered(ctx context.Context, log *slog.Logger, request any, handle grpc.UnaryHandler) (response any, err error) {
	defer func() {
		if p := recover(); p != nil {
			log.ErrorContext(ctx, "panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "the driver failed on this call; its log says where")
		}
	}()
	return handle(ctx, request)
}

// quiet are the calls that change nothing and come often.
var quiet = []string{
	"GetPluginInfo", "GetPluginCapabilities", "Probe", "ControllerGetCapabilities", "GetCapacity",
	"ValidateVolumeCapabilities", "ListVolumes", "ListSnapshots", "ControllerGetVolume", "NodeGetCapabilities", "NodeGetInfo", "NodeGetVolumeStats", "NodeGetVolumeHealth",
	"NodeGetStorageHealth", "ControllerGetVolumeHealth", "ControllerListVolumeHealth",
	"GroupControllerGetCapabilities", "GetSnapshot", "GetVolumeGroupSnapshot",
}

// logCall writes as loudly as the outcome deserves. ABORTED is quiet: that call is repeated anyway.
func logCall(ctx context.Context, log *slog.Logger, method string, err error, took time.Duration) {
	code := status.Code(err)
	log = log.With("code", code.String(), "took", took)
	switch {
	case code == codes.Aborted, code == codes.OK && slices.Contains(quiet, method):
		log.DebugContext(ctx, "done")
	case code == codes.OK:
		log.InfoContext(ctx, "done")
	case code == codes.Internal, code == codes.Unknown, code == codes.DataLoss:
		log.ErrorContext(ctx, "failed", "error", status.Convert(err).Message())
	default:
		log.WarnContext(ctx, "refused", "error", status.Convert(err).Message())
	}
}
