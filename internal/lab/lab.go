package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Options say what the lab runs.
type Options struct {
	// Containerd is which containerd to run; "" is Debian.
	Containerd Flavour
	// Cache is where "make containerd" put the programs; "" is DefaultCache().
	Cache string
	// BinDir holds the shims that containerd is to find, before the system's.
	BinDir string
	// Handlers are the runtime handlers beside "runc".
	Handlers []Handler
	// DefaultHandler is the handler of pods that name none; "" is "runc".
	DefaultHandler string
	// Network is a CNI configuration list; "" is a bridge that leads nowhere.
	Network string
	// Registry, a host and port in the lab's network, is where images of every name are pulled from. A lab that has
	// one makes no images of its own, and SandboxImage says which of them pods begin with.
	Registry     string
	SandboxImage string
}

// Handler is one runtime handler of the CRI, "kata" for instance.
type Handler struct {
	Name string
	// RuntimeType names the shim, as in containerd's configuration ("io.containerd.katadirect.v2").
	RuntimeType string
	// Config is written to a file whose path reaches the shim as ConfigPath in its runtime options; "" sends none.
	Config string
	// RuntimePath is the shim's program where the type does not name it, and Options are further lines of the runtime's
	// options.
	RuntimePath, Options string
}

func (o *Options) setDefaults() {
	o.Cache = cmp.Or(o.Cache, DefaultCache())
	o.DefaultHandler = cmp.Or(o.DefaultHandler, "runc")
	o.Network = cmp.Or(o.Network, cniConfig)
	o.SandboxImage = cmp.Or(o.SandboxImage, PauseImage)
}

// Lab is a running private containerd and what was started beside it. It is safe for concurrent use, except Close.
type Lab struct {
	// Dir holds all files of the run. It has the same path inside and outside of the lab.
	Dir string

	opts      Options
	ns        *namespace
	lock      *os.File
	processes []*Process
	watched   []string
	stays     []string // patterns of files that may stay in the watched folders
	before    []mount
	cri       *CRI
	ctrd      *Process
}

const dirPattern = "katadirect-"

// Open makes a folder and namespaces, starts containerd in them, imports the images and returns when the CRI
// answers. It undoes everything on error.
func Open(ctx context.Context, opts Options) (_ *Lab, err error) {
	opts.setDefaults()
	Sweep()
	l := &Lab{opts: opts}
	if err := l.makeDir(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			left, closeErr := l.Close(context.WithoutCancel(ctx))
			err = errors.Join(err, closeErr, leftoverError(left))
		}
	}()
	l.ns, err = newNamespace(ctx, l.Dir, []string{environMark + "=" + l.Dir})
	if err != nil {
		return nil, err
	}
	if l.before, err = readMounts(l.ns.init.Process.Pid); err != nil {
		return nil, err
	}
	l.Watch("/run",
		"katadirect", // the host's: what the shim found out about it, kept until the next boot
		"lab-ipam/lab/lock", "lab-ipam/lab/last_reserved_ip.*")
	if err := l.StartContainerd(ctx); err != nil {
		return nil, err
	}
	if opts.Registry != "" {
		return l, nil
	}
	return l, l.importImages(ctx)
}

// makeDir makes the run's folder and locks it, so that Sweep knows the run lives.
func (l *Lab) makeDir() error {
	parent := os.Getenv("TMPDIR")
	if parent == "" {
		parent = "/var/tmp" // on disk, where /tmp may be memory: volumes are made here
	}
	if strings.HasPrefix(parent, "/run") {
		return fmt.Errorf("TMPDIR=%s: the lab has a /run of its own, use another folder", parent)
	}
	parent, err := realDir(parent)
	if err != nil {
		return err
	}
	if l.Dir, err = os.MkdirTemp(parent, dirPattern); err != nil {
		return err
	}
	// Sweep finds the lock by its name: it has it only once it is locked, or another program's Sweep could be first.
	path := filepath.Join(l.Dir, "lock")
	if l.lock, err = os.Create(path + ".new"); err != nil {
		return err
	}
	if err := unix.Flock(int(l.lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// realDir is the path by which the kernel names a loop device's file.
func realDir(dir string) (string, error) {
	if dir == "" {
		return "", os.ErrNotExist
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// Sweep removes the folders of runs that were killed, and their loop devices. Their processes and mounts went with their
// namespaces.
func Sweep() {
	for _, parent := range []string{os.Getenv("TMPDIR"), "/var/tmp"} {
		parent, err := realDir(parent)
		if err != nil {
			continue
		}
		locks, _ := filepath.Glob(filepath.Join(parent, dirPattern+"*", "lock"))
		for _, path := range locks {
			f, err := os.Open(path)
			if err != nil {
				continue
			}
			if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				removeCgroups(cgroupOf(filepath.Dir(path)))
				if err := detachLoopsBelow(filepath.Dir(path)); err != nil {
					fmt.Fprintf(os.Stderr, "the folder of a killed run is kept for the next try: %v\n", err)
				} else {
					_ = os.RemoveAll(filepath.Dir(path))
				}
			}
			_ = f.Close()
		}
	}
}

// Path is how a file of the lab is reached from the outside. Files below Dir need no such help.
func (l *Lab) Path(inside string) string { return l.ns.path(inside) }

// Watch names a folder, as seen inside the lab, in which the run must leave nothing behind but empty folders and the
// files and folders that match one of the patterns, which are relative to it.
func (l *Lab) Watch(dir string, stays ...string) {
	l.watched = append(l.watched, dir)
	for _, pattern := range stays {
		l.stays = append(l.stays, filepath.Join(dir, pattern))
	}
}

// InitPID is the process id, on the host, of the lab's first process. Enter takes it.
func (l *Lab) InitPID() int { return l.ns.init.Process.Pid }

// CRI is containerd's runtime service.
func (l *Lab) CRI() *CRI { return l.cri }

// Close stops what the lab started, in reverse order, then looks for what is left of the run and returns it, then
// ends whatever still runs and removes the folder. Leftovers are one line each: kind, name, where.
func (l *Lab) Close(ctx context.Context) (leftovers []string, err error) {
	return l.end(ctx, l.leftoversInside)
}

// Discard is Close for a lab that may be full of things: only what outlives it counts as left over.
func (l *Lab) Discard(ctx context.Context) (leftovers []string, err error) {
	return l.end(ctx, func() ([]string, error) { return nil, nil })
}

func (l *Lab) end(ctx context.Context, lookInside func() ([]string, error)) (leftovers []string, err error) {
	var errs []error
	if l.cri != nil {
		errs = append(errs, l.cri.close())
	}
	for _, p := range slices.Backward(l.processes) {
		errs = append(errs, p.Stop(ctx))
	}
	if l.ns != nil {
		leftovers, err = lookInside()
		errs = append(errs, err, l.DetachLoops(), l.ns.close(ctx))
	}
	removeCgroups(cgroupOf(l.Dir))
	errs = append(errs, os.RemoveAll(l.Dir))
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	outside, err := leftoversOutside(l.Dir)
	return append(leftovers, outside...), errors.Join(append(errs, err)...)
}
