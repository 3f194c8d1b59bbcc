package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
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
	log := callLog{i.log, []slog.Attr{slog.String("method", method)}}
	if named, ok := request.(interface{ GetVolumeId() string }); ok {
		telemetry.TraceVolume(ctx, named.GetVolumeId())
		log.about = append(log.about, slog.String("volume", named.GetVolumeId()))
	} else if named, ok := request.(interface{ GetName() string }); ok {
		log.about = append(log.about, slog.String("name", named.GetName()))
	}
	log.write(ctx, slog.LevelDebug, "call", slog.Any("body", loggable{request}))
	start := time.Now()
	response, err := recovered(ctx, log, request, handle)
	err = toStatus(ofEnded(ctx, err))
	end(status.Code(err))
	i.note(request, method, err)
	log.done(ctx, method, err, time.Since(start))
	if err != nil {
		return nil, err
	}
	return response, nil
}

// ofEnded gives an error that a call's end has caused the code of that, whatever the call was waiting for: a guest that
// was not given the time to answer is not one that has failed.
func ofEnded(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
		return status.Error(status.FromContextError(ended).Code(), err.Error())
	}
	return err
}

// recovered turns a panic into an error: one bad request must not end the calls of all other pods.
func recovered(ctx context.Context, log callLog, request any, handle grpc.UnaryHandler) (response any, err error) {
	defer func() {
		if p := recover(); p != nil {
			log.write(ctx, slog.LevelError, "panic", slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
			err = status.Error(codes.Internal, "the driver failed on this call; its log says where")
		}
	}()
	return handle(ctx, request)
}
