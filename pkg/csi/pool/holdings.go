package pool

import "context"

// holding is a file of the pool that has taken a part of what it was promised already.
type holding struct {
	// takenBytes is what it has on the disk, and no more than its promise.
	takenBytes int64
	// family tells files apart that cannot share a block. Of files that may (a snapshot and the volume it was taken of,
	// where the file system has reflinks) a shared block is on the disk once, and must not be counted for each of them.
	family string
}

// holdings lists all that takes space in the pool. It looks at every file.
func (p *Pool) holdings() []holding {
	var all []holding
	shared := p.newSharing()
	for _, v := range p.List(context.Background()) {
		all = append(all, holding{
			takenBytes: min(shared.without(p, v.ID), p.promiseOf(v).costBytes),
			family:     v.ID,
		})
	}
	for id, promised := range p.snapshotPromises() {
		all = append(all, holding{takenBytes: min(shared.without(p, id), promised.costBytes), family: id})
	}
	for id, promised := range p.inMaking() { // one that is finished meanwhile is of the family of what it has become
		all = append(all, holding{takenBytes: min(shared.without(p, draftPrefix+id), promised.costBytes), family: id})
	}
	return append(all, holding{takenBytes: shared.mostBytes, family: "shared"})
}

// takenBytes is how much of the pool's promises is on the disk already: at least that. Of a family the largest counts,
// for that much is there whatever the others share with it.
func (p *Pool) takenBytes() int64 {
	largest := map[string]int64{}
	for _, h := range p.holdings() {
		largest[h.family] = max(largest[h.family], h.takenBytes)
	}
	var sum int64
	for _, bytes := range largest {
		sum += bytes
	}
	return sum
}

// promiseOf is what the pool owes a volume: that it can be written full.
func (p *Pool) promiseOf(v Volume) promise {
	return promise{costBytes: costBytes(v.SizeBytes), overcommit: p.overcommitOf(v.Overcommit)}
}

// promiseOfCopy is what the pool owes a copy that nobody writes to any more, a snapshot say: what is in it now, even
// when the original that it shares blocks with is written anew.
func (p *Pool) promiseOfCopy(contentBytes int64) promise {
	return promise{costBytes: costBytes(contentBytes), overcommit: p.overcommitOf(0)}
}

// overcommitOf is what holds for a volume that was made with that over-commitment, 0 for none of its own: never more
// than the operator allows now.
func (p *Pool) overcommitOf(own float64) float64 {
	if own == 0 {
		return p.space.overcommit
	}
	return min(own, p.space.overcommit)
}

// allocatedBytesOf is what one volume's image takes on the disk; nothing when it cannot be found out.
func (p *Pool) allocatedBytesOf(id string) int64 {
	f, err := openFolder(p.root, id)
	if err != nil {
		return 0
	}
	defer f.close()
	size, err := f.imageSize()
	if err != nil {
		return 0
	}
	return size.allocatedBytes
}
