package pool

import (
	"errors"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxBatch bounds how many changes one commit waits for.
const maxBatch = 128

// committer makes changes to the pool's folder durable, many at a time: a journalling file system pays for the commit,
// not for the changes in it. Before it syncs it waits for the changes that have begun and are not finished, which
// takes them as long as a few system calls take; so sixteen creates at once cost one commit instead of sixteen, and
// a single one never waits for anybody.
//
//	change := committer.begin()
//	…                            // make files and names
//	err := change.commit(files…) // or change.abandon()
//
// One goroutine syncs. It ends with close, which must come after the last change.
type committer struct {
	root      *os.File
	changes   chan *change
	unsettled atomic.Int64 // changes begun that the goroutine has not received
	ended     chan struct{}
}

// change is one begun change of the pool's folder. It ends with exactly one commit or abandon.
type change struct {
	committer *committer
	synced    chan error // nil for one that was abandoned
}

func newCommitter(root *os.File) *committer {
	c := &committer{root: root, changes: make(chan *change, maxBatch), ended: make(chan struct{})}
	go c.run()
	return c
}

func (c *committer) close() {
	close(c.changes)
	<-c.ended
}

func (c *committer) begin() *change {
	c.unsettled.Add(1)
	return &change{committer: c}
}

// abandon says that nothing of this change needs to be durable.
func (ch *change) abandon() { ch.committer.changes <- ch }

// commit returns when the names in the pool's folder and the files given are durable. The files' contents start on
// their way to the disk first, so that the shared commit covers them and their own syncs find little left to do.
func (ch *change) commit(files ...*os.File) error {
	for _, f := range files {
		// Only a head start, and not all file systems know it: the sync below is what counts.
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	}
	ch.synced = make(chan error, 1)
	ch.committer.changes <- ch
	err := <-ch.synced
	for _, f := range files {
		err = errors.Join(err, f.Sync())
	}
	return err
}

func (c *committer) run() {
	defer close(c.ended)
	for first := range c.changes {
		batch := []*change{first}
		c.unsettled.Add(-1)
		for len(batch) < maxBatch && c.unsettled.Load() > 0 {
			batch = append(batch, <-c.changes)
			c.unsettled.Add(-1)
		}
		c.sync(batch)
	}
}

func (c *committer) sync(batch []*change) {
	var err error
	needed := false
	for _, ch := range batch {
		needed = needed || ch.synced != nil
	}
	if needed {
		err = c.root.Sync()
	}
	for _, ch := range batch {
		if ch.synced != nil {
			ch.synced <- err
		}
	}
}
