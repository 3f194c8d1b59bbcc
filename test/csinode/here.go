package csinode

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/katadirect/katadirect/pkg/csi"
	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// here is the driver in the test's own process.
type here struct {
	stop  context.CancelFunc
	ended chan error // from Serve and all that comes after it
}

// StartHere is Start without a process of its own: the driver, its state and its socket are the same, and what a process
// takes to start is saved. It cannot be killed. kubernetes is as in --kubernetes.
func StartHere(t testing.TB, dir, kubernetes string) *Driver {
	t.Helper()
	d := newDriver(t, dir)
	d.here, d.kubernetes = &here{}, kubernetes
	d.mustStart()
	return d
}

// start does what cmd/csi-node does.
func (d *Driver) startHere() (err error) {
	log, err := os.OpenFile(d.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(log, nil))
	ctx, stop := context.WithCancel(context.Background())
	undo := func() { stop(); log.Close() }
	cluster, err := kube.Open(d.kubernetes, NodeID, logger)
	if err != nil {
		undo()
		return err
	}
	// Other processes of this machine that name a sandbox are not looked for: there are none.
	sandboxes := directvolume.Sandboxes{GoDir: d.Sandboxes(), RustDir: d.Dir, ProcDir: d.Sandboxes()}
	driver, err := csi.Open(ctx, csi.Config{
		NodeID: NodeID, PoolDir: d.Pool(), RecordRoot: d.Records(), StateDir: d.State(), Log: logger,
		Sandboxes: sandboxes, Cluster: cluster, Machines: mode.DefaultMachines, DefaultHandler: "runc",
	})
	if err != nil {
		undo()
		return err
	}
	listener, err := csi.Listen(ctx, d.Endpoint)
	if err != nil {
		undo()
		return errors.Join(err, driver.Close())
	}
	d.here.stop, d.here.ended = stop, make(chan error, 1)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if cluster != nil {
			cluster.Run(ctx)
		}
	}()
	go func() {
		err := driver.Serve(ctx, listener)
		<-watched
		d.here.ended <- errors.Join(err, driver.Close(), log.Close())
	}()
	return d.ready()
}

// stopHere ends the driver and waits until it has given everything back.
func (d *Driver) stopHere() error {
	if d.here.stop == nil {
		return nil
	}
	d.here.stop()
	d.here.stop = nil
	return <-d.here.ended
}
