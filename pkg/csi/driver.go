package csi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/katadirect/katadirect/pkg/csi/guestview"
	"github.com/katadirect/katadirect/pkg/csi/hostmount"
	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/loop"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
	"github.com/katadirect/katadirect/pkg/csi/telemetry"
	"github.com/katadirect/katadirect/pkg/csi/trouble"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// drainTimeout bounds how long Serve waits for calls that are under way when it is told to end.
const drainTimeout = 25 * time.Second

// requestWindow is how much of a request may be on its way at once: more than any has. A fixed one saves the question, at
// each call, whether the connection could do with a wider one.
const requestWindow = 64 << 10

// streamWorkers answer calls one after the other on stacks that have grown once, where each call would else grow one of
// its own: a quarter of the driver's own work in a call of kubelet's. Calls beyond them get one of their own still.
const streamWorkers = 4

// Config says where a driver's state is. Only NodeID and PoolDir are needed.
type Config struct {
	// NodeID is the node's name. It becomes the value of a label (TopologyKey).
	NodeID string
	// PoolDir is the folder of the volumes. It is made if it is missing.
	PoolDir string
	// RecordRoot is the folder of the records; "" is directvolume.DefaultRoot.
	RecordRoot string
	// StateDir is the folder of what is staged; "" is stage.DefaultDir.
	StateDir string
	// FreezeLimit is how long a file system in use may stand still for a snapshot; 0 is DefaultFreezeLimit.
	FreezeLimit time.Duration
	// Sandboxes says where the runtimes' sandboxes are; the zero value is the host's own places.
	Sandboxes directvolume.Sandboxes
	// Overcommit is how many bytes may be promised to volumes for each that the pool's disk has; 0 is 1.
	Overcommit float64
	// MaxVolumes is how many volumes may be in use on this node at once; 0 is what its memory allows.
	MaxVolumes int
	// Cluster is the way to Kubernetes. Without it (nil) nothing is looked up: the StorageClass's mode is all there is.
	Cluster *kube.Cluster
	lookups lookups // in Cluster's place, for tests
	// Machines are the handlers that run pods in virtual machines, DefaultHandler the one of pods without a RuntimeClass.
	Machines       mode.Machines
	DefaultHandler string
	// Log gets one line per call. Nil is silence.
	Log *slog.Logger
	// Calls counts the calls. Nil is no counting.
	Calls *telemetry.Calls
	// ServerOptions are more options of the gRPC server, such as tracing.
	ServerOptions []grpc.ServerOption
}

// Driver is one node's CSI driver.
type Driver struct {
	pool       *pool.Pool
	identity   identity
	controller csi.ControllerServer
	node       csi.NodeServer
	groups     csi.GroupControllerServer
	jobs       *jobs
	checkup    *checkup
	observer   observer
	reporter   *reporter
	troubles   troubles
	config     Config
	classes    *classes // nil without Kubernetes
	log        *slog.Logger
}

// Open opens the driver's state. Close gives it back.
func Open(ctx context.Context, c Config) (*Driver, error) {
	if err := checkNodeID(c.NodeID); err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Log = slog.New(telemetry.LogHandler{Handler: c.Log.Handler()})
	maxVolumes, err := chooseMaxVolumes(c.MaxVolumes)
	if err != nil {
		return nil, err
	}
	c.FreezeLimit = cmp.Or(c.FreezeLimit, DefaultFreezeLimit)
	if err := CheckFreezeLimit(c.FreezeLimit); err != nil {
		return nil, err
	}
	staged, err := stage.Open(c.StateDir)
	if err != nil {
		return nil, err
	}
	found, err := openRecords(ctx, c)
	if err != nil {
		return nil, err
	}
	volumes, err := pool.Open(ctx, c.PoolDir, pool.Options{Node: c.NodeID, Overcommit: c.Overcommit, Log: c.Log})
	if err != nil {
		return nil, err
	}
	loops := loop.New(volumes.Dir(), c.Log)
	if err := sweepLoops(ctx, loops, staged); err != nil {
		return nil, errors.Join(err, volumes.Close())
	}
	thawLeftovers(ctx, volumes.Dir(), c.Log)
	var (
		place     = topology(c.NodeID)
		sandboxes = guests{c.Sandboxes}
		hosts     = hostmount.New(loops, c.Log)
		check     = newCheckup(volumes, found, sandboxes, guestview.New(c.Log), staged, hosts)
		how       = newModes(c)
		limits    = limiter{pool: volumes, staged: staged, records: found, guests: sandboxes, log: c.Log}
		held      = &locks{}
		follow    *classes
		copies    = newJobs(held, c.Log)
		went      = troubles{log: &trouble.Log{}, idOf: volumes.ID}
	)
	if c.Cluster != nil {
		limits.watched = true
		follow = newClasses(c.Cluster, limits, held, c.Log)
	}
	control := &controller{
		pool: volumes, loops: loops, staged: staged, records: found, jobs: copies, topology: place, maxVolumes: maxVolumes, checkup: check, modes: how, log: c.Log,
		capturer: &capturer{pool: volumes, records: found, guests: sandboxes, freezeLimit: c.FreezeLimit, froze: c.Calls.Froze, log: c.Log},
	}
	local := &node{
		pool: volumes, loops: loops, staged: staged, records: found, guests: sandboxes, topology: place, maxVolumes: maxVolumes,
		checkup: check, limiter: limits, hosts: hosts, modes: how, log: c.Log,
	}
	local.sweepInline(ctx)
	how.warn(ctx, c.Log)
	return &Driver{
		pool:       volumes,
		identity:   identity{checkup: check},
		controller: serialController{locks: held, jobs: copies, idOf: volumes.ID, ControllerServer: limitedController{limits, control}},
		groups:     groupController{controller: control},
		jobs:       copies,
		node:       serialNode{locks: held, idOf: volumes.ID, NodeServer: local},
		checkup:    check,
		observer:   observer{pool: volumes, staged: staged, records: found, views: check.views, onHost: check.onHost, troubles: went.log},
		reporter:   &reporter{node: c.NodeID, checkup: check, troubles: went.log},
		troubles:   went,
		config:     c,
		classes:    follow,
		log:        c.Log,
	}, nil
}

// Close gives the pool back. It must come after Serve has returned.
func (d *Driver) Close() error {
	d.jobs.close()
	d.checkup.views.Close()
	d.observer.records.store.Close()
	return d.pool.Close()
}

// State says how the driver's volumes are, for metrics (telemetry.Source).
func (d *Driver) State(ctx context.Context) (telemetry.State, error) { return d.observer.State(ctx) }

// Serve answers calls on the listener until ctx ends. Then it takes no new ones, lets those under way finish for a
// bounded time, and returns.
func (d *Driver) Serve(ctx context.Context, listener net.Listener) error {
	calls := &interceptor{log: d.log, calls: d.config.Calls, note: d.troubles.note}
	server := grpc.NewServer(append(d.config.ServerOptions, grpc.UnaryInterceptor(calls.unary),
		grpc.StaticStreamWindowSize(requestWindow), grpc.NumStreamWorkers(streamWorkers), grpc.ForceServerCodecV2(newCodec()))...)
	csi.RegisterIdentityServer(server, d.identity)
	csi.RegisterControllerServer(server, d.controller)
	csi.RegisterNodeServer(server, d.node)
	csi.RegisterGroupControllerServer(server, d.groups)

	if d.classes != nil {
		watching, end := context.WithCancel(ctx)
		var all sync.WaitGroup
		all.Go(func() { d.classes.run(watching) })
		defer all.Wait()
		defer end()
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	d.log.InfoContext(ctx, "ending; calls under way may finish")
	overdue := time.AfterFunc(drainTimeout, server.Stop)
	defer overdue.Stop()
	server.GracefulStop()
	<-ended
	return nil
}
