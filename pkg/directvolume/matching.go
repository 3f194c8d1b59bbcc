package directvolume

import (
	"bytes"
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Matching returns the readable records that match wants, in no order, each as List would. On a node with many volumes
// it costs far less than List: a record that did not match, and whose file has not changed since, is not read again.
func (s *Store) Matching(ctx context.Context, match func(Record) bool) ([]Entry, error) {
	var entries []Entry
	names, err := s.each(ctx, func(root *rootDir, name string) {
		if entry, found := s.matching(ctx, root, name, match); found {
			entries = append(entries, entry)
		}
	})
	if err != nil {
		return nil, err
	}
	s.read.forgetOthers(names)
	return entries, nil
}

func (s *Store) matching(ctx context.Context, root *rootDir, name string, match func(Record) bool) (Entry, bool) {
	// Before the file is read: if it changes after that, what is remembered does not look like it any more.
	now, isFile := lookAt(root, name)
	if known, found := s.read.get(name, now); isFile && found && !match(known) {
		return Entry{}, false
	}
	var content []byte
	record, err := root.readWith(ctx, name, func(f *folder) (record Record, err error) {
		if content, err = f.readFile(); err != nil {
			return Record{}, err
		}
		if known, same := s.read.parsed(name, content); same {
			return known, nil
		}
		return ParseRecord(content)
	})
	if err != nil {
		return Entry{}, false // an alias is none either, it cannot be opened
	}
	if isFile {
		s.read.put(name, now, content, record)
	}
	if !match(record) {
		return Entry{}, false // who claims it does not matter
	}
	entry := s.entry(ctx, root, name)
	return entry, entry.Err == nil && match(entry.Record)
}

// look is what a record's file looks like from outside. Another content has another look, if the look is old enough.
type look struct {
	dev, ino uint64
	size     int64
	changed  unix.Timespec
	at       time.Time // when it was looked at
}

// settled is how much older than the look a file must be for a change after the look to show. File systems keep time in
// steps of up to ten milliseconds.
const settled = 100 * time.Millisecond

// lookAt reports false for what is no plain file; that has to be opened to know what it is.
func lookAt(root *rootDir, name string) (look, bool) {
	at := time.Now()
	var stat unix.Stat_t
	err := unix.Fstatat(root.fd(), name+"/"+recordName, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return look{}, false
	}
	return look{dev: stat.Dev, ino: stat.Ino, size: stat.Size, changed: stat.Ctim, at: at}, true
}

// same reports whether a file that looks so now is the one that was remembered when it looked like l.
func (l look) same(now look) bool {
	return l.dev == now.dev && l.ino == now.ino && l.size == now.size && l.changed == now.changed &&
		l.at.Sub(time.Unix(l.changed.Unix())) > settled
}

// maxRemembered bounds the memory that records take.
const maxRemembered = 10_000

// readRecords are records as they were read, by the names of their folders. The zero value is ready.
type readRecords struct {
	mu sync.Mutex
	by map[string]readRecord // guarded by mu
}

type readRecord struct {
	look    look
	content []byte // of the file
	record  Record
}

func (r *readRecords) get(name string, now look) (Record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, found := r.by[name]
	return known.record, found && known.look.same(now)
}

// parsed returns the record that content is known to be. A file that is too young for its look to tell is read again, and
// need not be understood again.
func (r *readRecords) parsed(name string, content []byte) (Record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, found := r.by[name]
	return known.record, found && bytes.Equal(known.content, content)
}

func (r *readRecords) put(name string, l look, content []byte, record Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = map[string]readRecord{}
	}
	if len(r.by) < maxRemembered {
		r.by[name] = readRecord{look: l, content: content, record: record.clone()} // the caller may change what it is given
	}
}

// forgetOthers forgets the records that are not among names.
func (r *readRecords) forgetOthers(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.by) <= len(names) {
		return // nothing to gain
	}
	there := make(map[string]struct{}, len(names))
	for _, name := range names {
		there[name] = struct{}{}
	}
	for name := range r.by {
		if _, is := there[name]; !is {
			delete(r.by, name)
		}
	}
}
