// Package cristatus asks a container runtime, over the socket that kubelet uses, what it is and which runtime handlers
// it has.
package cristatus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// askTimeout bounds one question.
const askTimeout = 10 * time.Second

// maxAnswer bounds an answer: a status with all of a runtime's settings in it.
const maxAnswer = 4 << 20

// Status is what a runtime says of itself.
type Status struct {
	Name    string // "containerd" or "cri-o"
	Version string // "v2.2.9", "1.6.20~ds1"
	// Ready is whether it can run pods. The network's state is not in it.
	Ready bool
	// Handlers are the names of the runtime handlers. KnowsHandlers is false where the runtime does not say.
	Handlers      []string
	KnowsHandlers bool
	// Shims are the programs of handlers, where the runtime says.
	Shims map[string]string
}

// Major is the first part of the version, 0 if there is none.
func (s Status) Major() int {
	number, _, _ := strings.Cut(strings.TrimPrefix(s.Version, "v"), ".")
	major, _ := strconv.Atoi(number)
	return major
}

// Has reports whether the runtime has the handler, with the shim if it says which it has. A runtime that does not
// say has it, as far as it can be known.
func (s Status) Has(handler, shim string) bool {
	if !s.KnowsHandlers {
		return true
	}
	has, known := s.Shims[handler]
	return slices.Contains(s.Handlers, handler) && (!known || has == shim)
}

// Ask asks the runtime that listens on the socket.
func Ask(ctx context.Context, socket string) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return Status{}, err
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	version, err := client.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return Status{}, fmt.Errorf("ask the container runtime at %s: %w", socket, err)
	}
	answer, err := client.Status(ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return Status{}, fmt.Errorf("ask the container runtime at %s: %w", socket, err)
	}
	s := Status{Name: version.GetRuntimeName(), Version: version.GetRuntimeVersion()}
	for _, condition := range answer.GetStatus().GetConditions() {
		if condition.GetType() == cri.RuntimeReady {
			s.Ready = condition.GetStatus()
		}
	}
	s.readHandlers(answer)
	return s, nil
}

// readHandlers takes the list that the interface has since 1.30, and containerd's settings, which have more and which
// older ones have too.
func (s *Status) readHandlers(answer *cri.StatusResponse) {
	for _, handler := range answer.GetRuntimeHandlers() {
		s.KnowsHandlers = true
		if name := handler.GetName(); name != "" {
			s.Handlers = append(s.Handlers, name)
		}
	}
	var settings struct {
		Containerd struct {
			Runtimes map[string]struct {
				Type string `json:"runtimeType"`
				Path string `json:"runtimePath"`
			} `json:"runtimes"`
		} `json:"containerd"`
	}
	if json.Unmarshal([]byte(answer.GetInfo()["config"]), &settings) != nil || settings.Containerd.Runtimes == nil {
		return
	}
	s.KnowsHandlers, s.Shims = true, map[string]string{}
	for name, runtime := range settings.Containerd.Runtimes {
		s.Shims[name] = runtime.Path
		if !slices.Contains(s.Handlers, name) {
			s.Handlers = append(s.Handlers, name)
		}
	}
}

// pollInterval is how often Wait asks.
const pollInterval = 250 * time.Millisecond

// ErrNotReady is returned by Wait when the time is over.
var ErrNotReady = errors.New("the container runtime does not answer as it should")

// Wait asks until the answer is ready and good, or the context ends.
func Wait(ctx context.Context, socket string, good func(Status) error) (Status, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		status, err := Ask(ctx, socket)
		if err == nil && !status.Ready {
			err = errors.New("it says that it is not ready")
		}
		if err == nil {
			err = good(status)
		}
		if err == nil {
			return status, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return status, fmt.Errorf("%w: %w", ErrNotReady, err)
		}
	}
}
