package directvolume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
)

// DefaultRoot is where Kata keeps its records. It is a tmpfs on most hosts: records do not outlive a reboot, and neither
// do the machines and mounts they speak of. See WithBootID for hosts where it is a disk.
const DefaultRoot = "/run/kata-containers/shared/direct-volumes"

// Store is the folder of records of one host. Its methods may be called from several goroutines and several
// processes at once: what must not mix is ordered by locks on the record folders, never by one over all. A Store
// keeps nothing in memory that it would not read again when it has changed; two Stores on one root are as good as one.
//
// All methods take the path that a volume is published at, as the CSI driver got it or as the OCI mount has it.
type Store struct {
	root      string
	sandboxes Sandboxes
	bootID    string // "" where records do not say of which boot they are
	swept     sync.Once
	read      readRecords

	background *background // nil where all work is done before a call returns
}

// StoreOption changes how NewStore makes a Store.
type StoreOption func(*Store)

// WithSandboxes makes the Store look elsewhere for the sandboxes that claims speak of.
func WithSandboxes(sandboxes Sandboxes) StoreOption {
	return func(s *Store) { s.sandboxes = sandboxes }
}

// NewStore returns the store in the folder root, or in DefaultRoot for "". Nothing is read or made yet.
func NewStore(root string, options ...StoreOption) *Store {
	s := &Store{root: orDefault(root, DefaultRoot)}
	for _, option := range options {
		option(s)
	}
	return s
}

// Root is the folder that holds the records.
func (s *Store) Root() string { return s.root }

// Get returns the record of a path. ErrNotFound: the path is an ordinary folder (the error is also an ErrInvalidKey
// if the path cannot have a record). Any other error: it is not, or it cannot be known, and nobody may use the folder
// in its stead.
func (s *Store) Get(ctx context.Context, volumePath string) (Record, error) {
	record, err := s.get(ctx, volumePath)
	if err != nil {
		return Record{}, fmt.Errorf("read the record of %s: %w", volumePath, err)
	}
	return record, nil
}

func (s *Store) get(ctx context.Context, volumePath string) (Record, error) {
	root, name, err := s.find(volumePath)
	if err != nil {
		return Record{}, err
	}
	defer root.close()
	return root.read(ctx, name)
}

// find opens the root and says under which name a path has its record. The caller closes the root.
func (s *Store) find(volumePath string) (*rootDir, string, error) {
	names, err := namesFor(volumePath)
	if errors.Is(err, ErrInvalidKey) {
		// Add takes no such path. A mount from "/", or from a very long path, is an ordinary one.
		return nil, "", fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return nil, "", err
	}
	root, err := openRoot(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", ErrNotFound
	}
	if err != nil {
		return nil, "", err
	}
	for _, name := range root.candidates(names) {
		there, err := root.has(name)
		if err != nil {
			root.close()
			return nil, "", err
		}
		if there {
			return root, name, nil
		}
	}
	root.close()
	return nil, "", ErrNotFound
}

// candidates are the names under which a path may have its record: ours, and then that of a driver that does not
// resolve links. Where an alias stands in its place it leads to ours; to another name than ours only if a link in
// the path has been turned since.
func (r *rootDir) candidates(names recordNames) []string {
	if !names.differ() {
		return []string{names.resolved}
	}
	if target := aliasTarget(r, names.literal); target != "" {
		return slices.Compact([]string{names.resolved, target})
	}
	return []string{names.resolved, names.literal}
}

// read reads a record without a lock: a writer never changes a record that can be seen, it replaces it.
func (r *rootDir) read(ctx context.Context, name string) (Record, error) {
	return r.readWith(ctx, name, (*folder).read)
}

// readWith is read, by other means.
func (r *rootDir) readWith(ctx context.Context, name string, read func(*folder) (Record, error)) (Record, error) {
	for {
		f, err := r.open(name)
		if err != nil {
			return Record{}, err
		}
		record, err := read(f)
		if err == nil {
			f.close()
			return record, nil
		}
		current, currentErr := f.current()
		f.close()
		// An error from a folder that is no longer the record says nothing about the record.
		if currentErr != nil || current {
			return record, errors.Join(err, currentErr)
		}
		if err := ctx.Err(); err != nil {
			return Record{}, err
		}
	}
}

// SandboxFor returns the first living sandbox, by name, that claims the volume. ErrNoSandbox if there is none,
// ErrNotFound if there is no record.
func (s *Store) SandboxFor(ctx context.Context, volumePath string) (string, error) {
	live, _, err := s.claimsOf(volumePath)
	if err != nil {
		return "", fmt.Errorf("find the sandbox of %s: %w", volumePath, err)
	}
	if len(live) == 0 {
		return "", fmt.Errorf("%s: %w has it", volumePath, ErrNoSandbox)
	}
	return live[0], nil
}

func (s *Store) claimsOf(volumePath string) (live, stale []string, err error) {
	root, name, err := s.find(volumePath)
	if err != nil {
		return nil, nil, err
	}
	defer root.close()
	f, err := root.open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.close()
	return s.sortClaims(f)
}

// sortClaims divides the claims of a folder by whether their sandbox lives.
func (s *Store) sortClaims(f *folder) (live, stale []string, err error) {
	ids, err := f.claims()
	for _, id := range ids {
		if s.sandboxes.Alive(id) {
			live = append(live, id)
		} else {
			stale = append(stale, id)
		}
	}
	return live, stale, err
}

// Entry is one record as List found it.
type Entry struct {
	// Name is the record's folder name.
	Name string
	// VolumePath is what the name stands for, "" if it stands for none.
	VolumePath string
	// Record is the zero Record if Err is not nil.
	Record Record
	// Sandboxes are the living sandboxes that claim the volume, sorted. More than one is a fault.
	Sandboxes []string
	// Stale are the claims of sandboxes that are gone.
	Stale []string
	// Err says what is wrong with the record.
	Err error
}

// List returns all records, sorted by path, also the bad ones. It changes nothing. A record that goes away while
// List runs is left out.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	var entries []Entry
	_, err := s.each(ctx, func(root *rootDir, name string) {
		if aliasTarget(root, name) != "" {
			return
		}
		if entry := s.entry(ctx, root, name); !errors.Is(entry.Err, ErrNotFound) {
			entries = append(entries, entry)
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.VolumePath, b.VolumePath), cmp.Compare(a.Name, b.Name))
	})
	return entries, nil
}

// each visits the folders of records, aliases among them, and returns the names of all that is in the root.
func (s *Store) each(ctx context.Context, visit func(root *rootDir, name string)) (names []string, err error) {
	root, err := openRoot(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.close()
	if names, err = root.names(); err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(name, tempPrefix) {
			visit(root, name)
		}
	}
	return names, nil
}

// Inspect returns the record of one path as List would. The Entry of a record that cannot be used says so in Err.
func (s *Store) Inspect(ctx context.Context, volumePath string) (Entry, error) {
	root, name, err := s.find(volumePath)
	if err != nil {
		return Entry{}, fmt.Errorf("inspect %s: %w", volumePath, err)
	}
	defer root.close()
	entry := s.entry(ctx, root, name)
	if errors.Is(entry.Err, ErrNotFound) {
		return Entry{}, fmt.Errorf("inspect %s: %w", volumePath, entry.Err)
	}
	return entry, nil
}

func (s *Store) entry(ctx context.Context, root *rootDir, name string) Entry {
	entry := Entry{Name: name}
	if entry.VolumePath, entry.Err = DecodeKey(name); entry.Err != nil {
		entry.Err = fmt.Errorf("%w: %w", ErrInvalid, entry.Err)
		return entry
	}
	if entry.Record, entry.Err = root.read(ctx, name); entry.Err != nil {
		entry.Record = Record{}
	}
	f, err := root.open(name)
	if err != nil {
		if entry.Err == nil || errors.Is(err, ErrNotFound) {
			entry.Err = err
		}
		return entry
	}
	defer f.close()
	if entry.Sandboxes, entry.Stale, err = s.sortClaims(f); err != nil && entry.Err == nil {
		entry.Err = err
	}
	return entry
}
