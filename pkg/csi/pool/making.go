package pool

import "maps"

// Drafts take of the disk while they are made: a copy has its room given to it before anybody writes it, and others fill
// up. Until they are finished they are neither volumes nor snapshots, and what they have taken of their promise would be
// missing twice: from what the disk has left, and from what is taken.

// setMaking notes what a draft is promised.
func (p *Pool) setMaking(id string, promised promise) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.making == nil {
		p.making = map[string]promise{}
	}
	p.making[id] = promised
}

// endMaking forgets a draft.
func (p *Pool) endMaking(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.making, id)
}

// inMaking returns the promises to all drafts, by the ids that they are to have.
func (p *Pool) inMaking() map[string]promise {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return maps.Clone(p.making)
}
