package qemu

import (
	"context"
	"errors"
	"sync"
)

// Names of a disk in QEMU, as in Kata.
const (
	nodePrefix   = "drive-"
	devicePrefix = "virtio-drive-"
)

// disks are what is plugged into a machine.
type disks struct {
	mu     sync.Mutex // guards what follows; held for no longer than a look
	byID   map[string]*disk
	places places
	fdsets int // the last one given out
}

// disk is one that is plugged, or being plugged or unplugged.
type disk struct {
	id    string
	at    address
	fdset int

	// busy holds one token while an operation on this disk is under way; who holds it owns the fields below.
	busy    chan struct{}
	backing *backing
	copy    *diskCopy // the last one, nil if there was none
	// What QEMU has of it, in the order in which it came; taken back in the opposite order.
	hasFD, hasNode, hasDevice bool
}

func (d *disk) node() string   { return nodePrefix + d.id }
func (d *disk) device() string { return devicePrefix + d.id }

func (s *disks) init(c Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID, s.places = map[string]*disk{}, newPlaces(c)
}

// reserve takes an address for a new disk, on which the caller is then busy.
func (s *disks) reserve(id string) (*disk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id] != nil {
		return nil, errors.New("a disk with this id is plugged already")
	}
	at, err := s.places.take()
	if err != nil {
		return nil, err
	}
	s.fdsets++
	d := &disk{id: id, at: at, fdset: s.fdsets, busy: make(chan struct{}, 1)}
	d.busy <- struct{}{}
	s.byID[id] = d
	return d, nil
}

// nextFDSet gives out a number for one more set of descriptors.
func (s *disks) nextFDSet() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fdsets++
	return s.fdsets
}

// forget frees the address of a disk on which the caller is busy.
func (s *disks) forget(d *disk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, d.id)
	s.places.free(d.at)
	<-d.busy // waiters find out that it is gone
}

// acquire waits until nobody else is busy with the disk. It returns nil for one that is not there.
func (s *disks) acquire(ctx context.Context, id string) (*disk, error) {
	for {
		s.mu.Lock()
		d := s.byID[id]
		s.mu.Unlock()
		if d == nil {
			return nil, nil
		}
		select {
		case d.busy <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		s.mu.Lock()
		current := s.byID[id] == d
		s.mu.Unlock()
		if current {
			return d, nil
		}
		<-d.busy // it went meanwhile; there may be a new one
	}
}

func (d *disk) release() { <-d.busy }

// release forgets everything when the machine has ended.
func (s *disks) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.byID {
		select {
		case d.busy <- struct{}{}:
			d.backing.close()
			<-d.busy
		default: // an operation is about to fail, and closes it then
		}
	}
}
