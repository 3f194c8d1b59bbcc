// Package mirror keeps a copy of a small folder whose content somebody else replaces: a configMap, a secret or a token
// on the file share. Programs in a container are told of changes to the copy by inotify, which the share itself cannot
// do, because the host makes them and not the guest.
//
// pkg/agent/storage calls it for the storages that a shim marks as watchable. What it copies from is the host's, and
// trusted as such, but nothing in either folder leads out of it. tree.go reads a folder, change.go brings the copy up
// to it; mounting is the caller's.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

// Limits of a folder that is copied. A configMap or a secret has at most 1 MiB, a projected volume several of them.
const (
	MaxEntries = 1024
	MaxBytes   = 4 << 20
)

// ErrTooLarge is returned for a folder beyond the limits, and for one with other things in it than files, folders and
// symbolic links.
var ErrTooLarge = errors.New("too large, or too special, to be copied")

// errMoving says that the folder changed while it was read.
var errMoving = errors.New("it changes while it is read")

// interval is how often the original is looked at; Kata's.
const interval = 2 * time.Second

// Mirror is a copy that is kept up to date until Close.
type Mirror struct {
	source, target *os.Root
	copied         tree
	settled        bool           // the last look at all of it found no change
	gone           map[string]int // names that are no longer there, and how often they were asked for
	end            context.CancelFunc
	ended          chan struct{}
}

// Start copies what is in source into the empty folder target, and follows it from then on.
func Start(source, target string) (_ *Mirror, err error) {
	m := &Mirror{gone: map[string]int{}, ended: make(chan struct{})}
	if m.source, err = os.OpenRoot(source); err != nil {
		return nil, err
	}
	if m.target, err = os.OpenRoot(target); err != nil {
		m.source.Close()
		return nil, err
	}
	if err = m.sync(); err != nil {
		m.source.Close()
		m.target.Close()
		return nil, fmt.Errorf("copy %s: %w", source, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.end = cancel
	go m.follow(ctx)
	return m, nil
}

// Close ends the following. The copy stays as it is. It waits for a look that is under way, which takes as long as the
// original's file system does; where ctx ends first, it can be called again.
func (m *Mirror) Close(ctx context.Context) error {
	m.end()
	select {
	case <-m.ended:
	case <-ctx.Done():
		return fmt.Errorf("the folder %s is still being read: %w", m.source.Name(), ctx.Err())
	}
	return errors.Join(m.source.Close(), m.target.Close())
}

func (m *Mirror) follow(ctx context.Context) {
	defer close(m.ended)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		// The copy stays at its last state as long as the original cannot be read; that is said once.
		switch err := m.sync(); {
		case err == nil, errors.Is(err, errMoving):
			said = ""
		case err.Error() != said:
			said = err.Error()
			slog.Warn("the copy of a watched folder is not up to date", "folder", m.source.Name(), "error", err)
		}
	}
}

// tries is how often a folder that moves is read again at once.
const tries = 5

// sync brings the copy up to date.
func (m *Mirror) sync() (err error) {
	m.askForGone()
	if m.unchanged() {
		return nil
	}
	for range tries {
		err = m.trySync()
		if !errors.Is(err, errMoving) {
			return err
		}
	}
	return err
}

// unchanged looks only at what kubelet changes with every update, where the folder is one of kubelet's: the link that
// names the present generation. The names that programs read follow it in a moment, so a change is looked after once.
func (m *Mirror) unchanged() bool {
	before, ok := m.copied[generation]
	if !ok || !m.settled {
		return false
	}
	now, err := readEntry(m.source, generation)
	return err == nil && now == before
}

// generation is the symbolic link that kubelet exchanges when a volume's content changes.
const generation = "..data"

func (m *Mirror) trySync() error {
	wanted, err := readTree(m.source)
	if err != nil {
		return err
	}
	if m.settled = wanted.equal(m.copied); m.settled {
		return nil
	}
	contents, err := m.readContents(wanted)
	if err != nil {
		return err
	}
	// What was read belongs together only if nothing has changed since.
	again, err := readTree(m.source)
	if err != nil {
		return err
	}
	if !wanted.equal(again) {
		return errMoving
	}
	for name := range m.copied {
		if _, stays := wanted[name]; !stays {
			m.gone[name] = 0
		}
	}
	c := change{m.target, m.copied, wanted, contents}
	if err := c.apply(); err != nil {
		// How far it came, the copy itself knows. Its files count as others than the original's, and are written again.
		m.copied, _ = readTree(m.target)
		return err
	}
	m.copied = wanted
	return nil
}

// asks is how often a name that is gone is asked for: the kernel may have been told that it is true for a moment longer.
const asks = 3

// askForGone asks for names that are no more. Asked for them the kernel forgets them, and has the file server close what it
// keeps open for each; otherwise it remembers them until memory is short.
func (m *Mirror) askForGone() {
	for name, asked := range m.gone {
		m.gone[name]++
		if _, err := m.source.Lstat(name); errors.Is(err, fs.ErrNotExist) || asked >= asks-1 {
			delete(m.gone, name)
		}
	}
}

// readContents reads the files that are not copied yet, or have changed.
func (m *Mirror) readContents(wanted tree) (map[string][]byte, error) {
	contents := make(map[string][]byte)
	left := int64(MaxBytes)
	for name, e := range wanted {
		if !e.mode.IsRegular() || m.copied[name] == e {
			continue
		}
		data, err := readFile(m.source, name, left)
		if err != nil {
			return nil, moving(err)
		}
		left -= int64(len(data))
		contents[name] = data
	}
	return contents, nil
}
