package directvolume

import (
	"context"
	"errors"
	"time"
)

// Most of what a new record waits for is its folder, and that is the same for all. So whoever has recorded a volume has a
// draft for the next one made beside it: pods come in numbers. It never had a name that anybody looks for, and has none
// until it is filled. A process that is killed leaves it like any other draft.

// spareLife is how long a draft is kept for somebody who needs one.
const spareLife = 2 * time.Second

// makeSpare makes a draft for the next one who records, unless there is one.
func (b *background) makeSpare(root string) {
	if b == nil || !b.wantSpare() {
		return
	}
	if !b.try(func() {
		d, _ := newSpare(root) // without one, the next record is made as the first was, and says what is wrong
		b.spareMade(d)
	}) {
		b.spareMade(nil)
	}
}

// newSpare makes a draft that keeps the root open.
func newSpare(path string) (*draft, error) {
	root, err := openRoot(path)
	if err != nil {
		return nil, err
	}
	d, err := root.makeDraft(context.Background())
	if err == nil {
		if err = d.settle(); err == nil {
			return d, nil
		}
		err = errors.Join(err, d.drop())
	}
	root.close()
	return nil, err
}

// adds counts a call of Add; the caller ends it.
func (b *background) adds() (end func()) {
	if b == nil {
		return func() {}
	}
	b.count(1)
	return func() { b.count(-1) }
}

func (b *background) count(more int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.adding += more
}

// wantSpare reports whether a draft is to be made, to one caller at a time. While others record volumes it is not: then
// the disk has enough to do, and most of them would find none.
func (b *background) wantSpare() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.making || b.spare != nil || b.adding > 0 {
		return false
	}
	b.making = true
	return true
}

func (b *background) spareMade(d *draft) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.making = false
	if b.spare = d; d != nil {
		b.expiry = time.AfterFunc(b.spareLife, func() { b.dropSpare(d) })
	}
}

// takeSpare returns the draft, if there is one and it is in this root.
func (b *background) takeSpare(root *rootDir) *draft {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	d := b.spare
	b.spare = nil
	if d != nil {
		b.expiry.Stop()
	}
	b.mu.Unlock()
	if d == nil {
		return nil
	}
	own := d.root
	defer own.close()
	d.root = root
	if current, err := d.current(); err != nil || !current { // another folder is the root now, or somebody has cleaned up
		d.root = own
		_ = d.drop()
		return nil
	}
	return d
}

// dropSpare takes a draft away that nobody has needed; nil is whatever there is.
func (b *background) dropSpare(which *draft) {
	b.mu.Lock()
	d := b.spare
	if d == nil || which != nil && (b.ended || which != d) { // Close sees to it
		b.mu.Unlock()
		return
	}
	b.spare = nil
	b.expiry.Stop()
	b.all.Add(1)
	b.mu.Unlock()
	defer b.all.Done()
	_ = d.drop()
	d.root.close()
}
