package pool

import "context"

// Page returns up to most volumes (0 means all) in the order of their ids, from the first whose id comes after the
// one given, and reports whether there are more. The id need not be that of a volume any more: so whoever pages
// sees each volume that was there all the time exactly once, whatever is made or deleted between two pages. Damaged
// volumes are among them, with no more than their id.
func (p *Pool) Page(_ context.Context, after string, most int) (page []Volume, more bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	ids := p.volumes.after(after)
	if more = most > 0 && len(ids) > most; more {
		ids = ids[:most]
	}
	page = make([]Volume, 0, len(ids))
	for _, id := range ids {
		page = append(page, p.volumes.by[id].volume)
	}
	return page, more
}
