package task

import "time"

// returnGrace is how long containerd may take, once it is back, to open the streams of what it finds: it looks at one
// container after the other.
const returnGrace = 30 * time.Second

// awaitReader holds the exit of a container back until what it has written last has been read. containerd 1.6 closes
// its end of a stream as soon as it hears of the exit, whatever is still in there: it would lose up to a fifo's worth
// of the log, and most of it where the container has ended while containerd was away. Nobody who does not read for
// stallLimit is waited for; but while containerd is away nobody can, and nobody asks for the exit either.
func (s *Service) awaitReader(p *process) {
	left, since, patience := p.stdio.unread(), time.Now(), s.stallLimit
	away := false
	for look := lookMin; left > 0; look = min(2*look, lookMax) {
		time.Sleep(look)
		before := left
		left = p.stdio.unread()
		switch {
		case left < before:
			since, patience = time.Now(), s.stallLimit
		case isClosed(s.leaving):
			patience = s.stallLimit
		case !s.connected():
			since, patience, away = time.Now(), s.returnGrace, true
		case away: // it came back since the last look, which may be long ago
			since, away = time.Now(), false
		}
		if time.Since(since) > patience {
			p.log.Warn("the exit is reported although output waits in the fifo: nobody reads it", "bytes", left)
			return
		}
	}
}
