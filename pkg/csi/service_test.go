package csi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/internal/mkfs"
	"github.com/katadirect/katadirect/pkg/csi/hostmount"
	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/loop"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestSecretsNeverReachTheLog(t *testing.T) {
	h := newHost(t)
	secrets := map[string]string{"password": "hunter2"}
	v, target := h.create("pvc"), h.target("pod")
	create := createRequest("another", gib)
	create.Secrets = secrets
	_, err := h.CreateVolume(t.Context(), create)
	must(t, err)
	_, err = h.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: h.staging(v.id), VolumeCapability: v.cap, Secrets: secrets,
	})
	must(t, err)
	publish := v.publishRequest(target)
	publish.Secrets = secrets
	_, err = h.NodePublishVolume(t.Context(), publish)
	must(t, err)
	_, err = h.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: v.id, Secrets: secrets})
	refused(t, err, codes.InvalidArgument)
	h.stop()
	log := h.log.String()
	if strings.Contains(log, "hunter2") {
		t.Error("the log has the secret")
	}
	if !strings.Contains(log, "password") || !strings.Contains(log, stripped) || !strings.Contains(log, target) {
		t.Errorf("the log lacks the requests:\n%s", log)
	}
	record, err := os.ReadFile(h.path("state", "staged", v.id+".json"))
	if err != nil || bytes.Contains(record, []byte("hunter2")) {
		t.Errorf("staged state: %s, %v", record, err)
	}
}

// Secrets are found by the mark that csi.proto puts on fields, wherever in a message they are.
func TestSecretsAreStrippedFromEveryRequest(t *testing.T) {
	secrets := map[string]string{"key": "hunter2"}
	for _, message := range []any{
		&csi.CreateVolumeRequest{Secrets: secrets}, &csi.DeleteVolumeRequest{Secrets: secrets},
		&csi.ControllerExpandVolumeRequest{Secrets: secrets}, &csi.CreateSnapshotRequest{Secrets: secrets},
		&csi.ValidateVolumeCapabilitiesRequest{Secrets: secrets}, &csi.NodeStageVolumeRequest{Secrets: secrets},
		&csi.NodePublishVolumeRequest{Secrets: secrets}, &csi.NodeExpandVolumeRequest{Secrets: secrets},
		&csi.NodeGetStorageHealthRequest{Secrets: secrets}, &csi.ControllerModifyVolumeRequest{Secrets: secrets},
	} {
		text := loggable{message}.LogValue().String()
		if strings.Contains(text, "hunter2") || !strings.Contains(text, stripped) {
			t.Errorf("%T is logged as %s", message, text)
		}
	}
	if secrets["key"] != "hunter2" {
		t.Error("the request itself was changed")
	}
	_ = loggable{nil}.LogValue()
	_ = loggable{(*csi.CreateVolumeRequest)(nil)}.LogValue()
}

func TestACallThatHasEndedSaysSoWhateverItWaitedFor(t *testing.T) {
	i := &interceptor{log: slog.New(slog.DiscardHandler), note: func(any, string, error) {}}
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	gone, leave := context.WithCancel(t.Context())
	leave()
	for name, test := range map[string]struct {
		ctx  context.Context
		err  error
		code codes.Code
	}{
		"late":                      {late, failf(ErrGuest, "slow: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		"given up":                  {gone, failf(ErrGuest, "slow: %w", context.Canceled), codes.Canceled},
		"late, with another reason": {late, failf(ErrInUse, "taken"), codes.FailedPrecondition},
		"in time, a guest too slow": {t.Context(), failf(ErrGuest, "slow: %w", context.DeadlineExceeded), codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := i.unary(test.ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/csi.v1.Node/NodeExpandVolume"},
				func(context.Context, any) (any, error) { return nil, test.err })
			refused(t, err, test.code, test.err.Error())
		})
	}
}

func TestAPanicEndsOneCallOnly(t *testing.T) {
	var log bytes.Buffer
	i := &interceptor{log: slog.New(slog.NewTextHandler(&log, nil)), note: func(any, string, error) {}}
	call := func(handle grpc.UnaryHandler) error {
		_, err := i.unary(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "v"}, &grpc.UnaryServerInfo{FullMethod: "/csi.v1.Controller/DeleteVolume"}, handle)
		return err
	}
	err := call(func(context.Context, any) (any, error) { panic("a secret of the inside") })
	refused(t, err, codes.Internal)
	if strings.Contains(err.Error(), "secret") || !strings.Contains(log.String(), "service_test.go") {
		t.Errorf("the caller got %v; the log has\n%s", err, log.String())
	}
	must(t, call(func(context.Context, any) (any, error) { return &csi.DeleteVolumeResponse{}, nil }))
}

func TestEveryDomainErrorHasItsCode(t *testing.T) {
	want := map[codes.Code][]error{
		codes.Aborted: {ErrBusy, errDeleted, ErrToken, filesystem.ErrBusy},
		codes.InvalidArgument: {
			ErrInvalidArgument, pool.ErrInvalidID, pool.ErrInvalidSpec, directvolume.ErrInvalidKey, mkfs.ErrOption, filesystem.ErrRefused,
		},
		codes.FailedPrecondition: {
			ErrCannotResize, ErrCannotFreeze, pool.ErrGroupMember, ErrCannotLimit, ErrInUse, ErrState, loop.ErrInUse, loop.ErrForeign,
			pool.ErrImageInUse, hostmount.ErrMounted, hostmount.ErrCannotGrow, hostmount.ErrRefused, filesystem.ErrNoProgram,
			filesystem.ErrBlank, filesystem.ErrOccupied, filesystem.ErrDamaged, directvolume.ErrClaimed, directvolume.ErrInvalid,
			stage.ErrNotStaged, mode.ErrNoMachine, mode.ErrUnknown, kube.ErrNotFound,
		},
		codes.AlreadyExists:     {ErrDiffers, pool.ErrAttachedDifferently, pool.ErrIncompatible},
		codes.NotFound:          {ErrNotPublished, ErrNoNode, pool.ErrNotFound, pool.ErrSnapshotNotFound, pool.ErrGroupNotFound},
		codes.OutOfRange:        {pool.ErrOutOfRange},
		codes.ResourceExhausted: {ErrNoTopology, pool.ErrTooManyAttached, pool.ErrNoSpace, unix.ENOSPC, unix.EDQUOT},
		codes.DataLoss:          {pool.ErrDamaged},
		codes.Unavailable:       {ErrGuest, ErrDiskSilent, pool.ErrNotReady, errDriverEnds, kube.ErrUnavailable},
		codes.Canceled:          {context.Canceled},
		codes.DeadlineExceeded:  {context.DeadlineExceeded},
	}
	tried := 0
	for code, kinds := range want {
		for _, kind := range kinds {
			tried++
			err := toStatus(fmt.Errorf("while testing: %w", kind))
			if status.Code(err) != code || !strings.Contains(err.Error(), "while testing") {
				t.Errorf("%v became %v, want %v", kind, err, code)
			}
		}
	}
	if tried != len(codeOf) {
		t.Errorf("%d kinds have codes, and %d are tried", len(codeOf), tried)
	}
	if toStatus(nil) != nil {
		t.Error("success became an error")
	}
	if err := toStatus(errors.New("unforeseen")); status.Code(err) != codes.Internal {
		t.Errorf("an unforeseen error became %v", err)
	}
	if err := toStatus(status.Error(codes.Unimplemented, "no")); status.Code(err) != codes.Unimplemented {
		t.Errorf("a code became %v", err)
	}
	full := fmt.Errorf("%w: %w", pool.ErrNoSpace, unix.ENOSPC)
	if err := toStatus(full); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a full disk became %v", err)
	}
}

func TestTheDriverSaysWhatItIs(t *testing.T) {
	h := newHost(t)
	info, err := h.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	if err != nil || info.GetName() != "csi.katadirect.io" || info.GetVendorVersion() == "" {
		t.Errorf("plugin info is %v, %v", info, err)
	}
	ready, err := h.Probe(t.Context(), &csi.ProbeRequest{})
	if err != nil || !ready.GetReady().GetValue() {
		t.Errorf("probe: %v, %v", ready, err)
	}
	for _, id := range []string{"", "-node", "node/1", strings.Repeat("n", 64), "knoten ä"} {
		if _, err := Open(t.Context(), Config{NodeID: id, PoolDir: h.path("other")}); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("node id %q: %v", id, err)
		}
	}
}

func TestListenReplacesOnlyADeadSocket(t *testing.T) {
	h := newHost(t)
	if _, err := Listen(t.Context(), "unix://"+h.path("csi.sock")); err == nil {
		t.Error("a served endpoint was taken over")
	}
	must(t, os.WriteFile(h.path("file"), nil, 0o600))
	if _, err := Listen(t.Context(), h.path("file")); err == nil {
		t.Error("a file was replaced by a socket")
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.path("dead.sock")})
	must(t, err)
	dead.SetUnlinkOnClose(false)
	must(t, dead.Close())
	listener, err := Listen(t.Context(), "unix:"+h.path("dead.sock"))
	must(t, err)
	defer listener.Close()
	if info, err := os.Stat(h.path("dead.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
	for _, endpoint := range []string{"", "tcp://0.0.0.0:1", "csi.sock", "unix://relative/csi.sock"} {
		if _, err := Listen(t.Context(), endpoint); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("endpoint %q: %v", endpoint, err)
		}
	}
}
