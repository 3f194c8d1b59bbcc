package directvolume

import (
	"context"
	"time"
)

// Most of what a new record waits for is its folder, and that is the same for all. So whoever has recorded a volume has a
// draft for the next one made beside it: pods come in numbers. It never had a name that anybody looks for, and has none
// until it is filled. A process that is killed leaves it like any other draft.

// spareLife is how long a draft is kept for somebody who needs one.
const spareLife = 2 * time.Second

// makeSpare makes a draft for the next one who records, unless there is one.
func (b *background) makeSpare(root *rootDir) {
	if b == nil || !b.wantSpare() {
		return
	}
	own, err := root.dup()
	started := err == nil && b.try(func() {
		d, err := own.makeDraft(context.Background())
		if err == nil {
			if err = d.settle(); err != nil {
				_ = d.drop()
			}
		}
		if err != nil { // the next record is made without, and says what is wrong
			own.close()
			b.spareMade(nil)
			return
		}
		b.spareMade(d)
	})
	if !started {
		b.spareMade(nil)
		if err == nil {
			own.close()
		}
	}
}

// wantSpare reports whether a draft is to be made, to one caller at a time.
func (b *background) wantSpare() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.making || b.spare != nil {
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
