package pool

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// settle makes durable what the scan found of a volume. Whoever made it, or made it larger, may have been killed before
// that; then nobody has been told, and the one who says now that it is there answers for it. It does so once.
func (p *Pool) settle(id string) error {
	e, found := p.entry(id)
	if !found || !e.unsettled {
		return nil
	}
	if err := p.syncVolume(id, metaName, imageName); err != nil {
		return fmt.Errorf("make volume %s durable: %w", id, diskError(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, found := p.volumes.get(id); found {
		e.unsettled = false
		p.volumes.put(id, e)
	}
	return nil
}

// syncVolume makes files of a volume's folder durable, and the names in it.
func (p *Pool) syncVolume(id string, names ...string) (err error) {
	f, err := openFolder(p.root, id)
	if err != nil {
		return err
	}
	defer f.close()
	for _, name := range names {
		file, err := openBelow(f.dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(file.Sync(), file.Close()); err != nil {
			return err
		}
	}
	return f.dir.Sync()
}
