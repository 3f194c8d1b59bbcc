package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lockName is the file whose lock says that a process has the pool open.
const lockName = ".lock"

// Options are what Open needs to know besides the folder.
type Options struct {
	// Node is the node's name; it is part of the ids of the volumes made here.
	Node string
	// Overcommit is how many bytes may be promised to volumes for each that there is: 1 to 100. 0 is 1.
	Overcommit float64
	// Log gets a line for everything that was cleaned up or looks wrong. Nil is silence.
	Log *slog.Logger

	shortageInterval time.Duration // 0 for the package's
}

// Pool is an open pool folder. Its methods may be called from several goroutines at once; calls for one volume must
// not overlap.
type Pool struct {
	dir       string // absolute, without symbolic links
	node      string
	log       *slog.Logger
	root      *os.File
	lock      *os.File
	committer *committer
	space     space
	reflinks  bool // files here can share blocks

	watcher      sync.WaitGroup // watchShortage
	stopWatching func()

	mu        sync.RWMutex
	volumes   index                    // guarded by mu
	snapshots map[string]snapshotEntry // by id; guarded by mu
	groups    map[string]groupEntry    // likewise
	attached  map[string]bool          // whether read-only, by volume id; likewise
	making    map[string]promise       // to drafts, by id; likewise
}

// entry is what the index knows of a folder.
type entry struct {
	volume Volume
	damage error // why the volume cannot be used; volume then has only the id
	// unsettled says that it was found by scan, and that nobody has made sure since that it is durable.
	unsettled bool
}

// Volume is one volume of the pool.
type Volume struct {
	ID         string
	Name       string // as asked for in Create
	FSType     string
	Parameters map[string]string // as given to Create; not to be changed
	SizeBytes  int64
	Overcommit float64 // its own, 0 for the pool's
	ImagePath  string  // absolute host path of the raw image
	Created    time.Time
	Source     string // the id of the volume or snapshot it was made from, which may be gone; "" if it began empty
}

// Open opens the pool in dir, makes the folder if it is missing, takes the pool's lock, removes what crashes left,
// and reads the index. It returns ErrPoolInUse when another process has it open, and ErrUnsafePool when others than
// this process's user could write in it.
func Open(ctx context.Context, dir string, options Options) (*Pool, error) {
	p, err := prepare(dir, options)
	if err != nil {
		return nil, fmt.Errorf("open pool %s: %w", dir, err)
	}
	if err := p.scan(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open pool %s: %w", dir, err), p.closeFiles())
	}
	p.committer = newCommitter(p.root)
	watching, stop := context.WithCancel(context.Background())
	p.stopWatching = stop
	p.watcher.Go(func() { p.watchShortage(watching, cmp.Or(options.shortageInterval, shortageInterval)) })
	return p, nil
}

// Close ends the pool. It must come after the last call has returned.
func (p *Pool) Close() error {
	p.stopWatching()
	p.watcher.Wait()
	p.committer.close()
	return p.closeFiles()
}

// prepare opens the folder and takes the lock.
func prepare(dir string, options Options) (_ *Pool, err error) {
	overcommit, err := checkOvercommit(options.Overcommit)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, err
	}
	// A record names the image by its absolute path, and runtimes compare paths byte for byte.
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	p := &Pool{dir: dir, node: options.Node, log: options.Log,
		snapshots: map[string]snapshotEntry{}, groups: map[string]groupEntry{}, attached: map[string]bool{}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.root, err = os.Open(dir); err != nil {
		return nil, err
	}
	p.space.root, p.space.overcommit = p.root, overcommit
	if err = checkOwner(p.root); err == nil {
		p.lock, err = lockPool(p.root)
	}
	spread(p.root)
	p.reflinks = err == nil && probeReflink(p.root)
	if err != nil {
		return nil, errors.Join(err, p.closeFiles())
	}
	return p, nil
}

func (p *Pool) closeFiles() error {
	err := p.root.Close()
	if p.lock != nil {
		// Closing it would leave it locked until a child that is just being forked executes its program.
		err = errors.Join(err, unix.Flock(int(p.lock.Fd()), unix.LOCK_UN), p.lock.Close())
	}
	return err
}

// checkOwner refuses a folder in which somebody else could exchange a volume's image for the host's own disk.
func checkOwner(dir *os.File) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &stat); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: it belongs to user %d; chown it to %d", ErrUnsafePool, stat.Uid, os.Geteuid())
	}
	if stat.Mode&0o022 != 0 {
		return fmt.Errorf("%w: others can write in it (mode %04o); chmod it to 0700", ErrUnsafePool, stat.Mode&0o7777)
	}
	return nil
}

func lockPool(root *os.File) (*os.File, error) {
	lock, err := openBelow(root, lockName, unix.O_RDWR|unix.O_CREAT, fileMode)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrPoolInUse
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return lock, nil
}

// Dir is the pool's folder: absolute and without symbolic links.
func (p *Pool) Dir() string { return p.dir }

// ID returns the id that a volume of that name has in this pool.
func (p *Pool) ID(name string) string { return makeID(p.node, name) }

// Local reports whether the id is one that this pool makes. The volume need not exist.
func (p *Pool) Local(id string) bool { return idIsOf(id, p.node) }

// Get returns a volume, or ErrInvalidID, ErrNotFound or ErrDamaged.
func (p *Pool) Get(_ context.Context, id string) (Volume, error) {
	if err := ValidateID(id); err != nil {
		return Volume{}, err
	}
	e, found := p.entry(id)
	if !found {
		return Volume{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return e.volume, e.damage
}

// List returns all usable volumes, sorted by id.
func (p *Pool) List(_ context.Context) []Volume {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var all []Volume
	for _, id := range p.volumes.ids {
		if e := p.volumes.by[id]; e.damage == nil {
			all = append(all, e.volume)
		}
	}
	return all
}

func (p *Pool) entry(id string) (entry, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.volumes.get(id)
}

func (p *Pool) put(v Volume) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.volumes.put(v.ID, entry{volume: v})
}

func (p *Pool) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.volumes.drop(id)
	delete(p.attached, id)
}

// volume puts together what the index holds.
func (p *Pool) volume(id string, m meta, sizeBytes int64) Volume {
	return Volume{
		ID: id, Name: m.Name, FSType: m.FSType, Parameters: m.Parameters, Created: m.Created, Source: m.Source,
		SizeBytes: sizeBytes, Overcommit: m.Overcommit, ImagePath: filepath.Join(p.dir, id, imageName),
	}
}
