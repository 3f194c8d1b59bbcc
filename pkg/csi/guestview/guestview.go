// Package guestview keeps what guests have said of their volumes, and asks them anew without ever waiting long: one
// that does not answer in time is remembered as silent, the next caller gets at once what is known, and the guest is
// asked on in the background. Whoever wants to know how full or how healthy a volume in a machine is asks here.
//
// It is memory only; after a restart of the driver the next answer of a guest fills it. What an answer means must
// never move in here.
package guestview

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// How long guests are waited for.
const (
	// Patience is for a guest that has answered until now. kubelet asks for all volumes in turn.
	Patience = 2 * time.Second
	// grace is for one that has not: it may have come back.
	grace = 100 * time.Millisecond
	// questionTimeout is how long a question goes on without anybody waiting for it.
	questionTimeout = 20 * time.Second
)

// maxQuestions bounds the questions to one sandbox at a time. A shim serves sixteen connections, and other calls need
// some of them.
const maxQuestions = 8

// ErrSilent says that the guest has not answered in time.
var ErrSilent = errors.New("the guest does not answer")

// Ask asks one guest for one volume.
type Ask func(context.Context) (directvolume.VolumeStats, error)

// View is what is known of a volume.
type View struct {
	// Stats are the guest's latest, and At when they came; zero if there were never any.
	Stats directvolume.VolumeStats
	At    time.Time
	// Err is why there are no newer ones; nil if the guest has just answered. ErrSilent, or what the sandbox said.
	Err error
	// SilentSince is when the guest was asked first of those times that it did not answer; zero if it does.
	SilentSince time.Time
}

// Known reports whether a guest has ever said anything of the volume.
func (v View) Known() bool { return !v.At.IsZero() }

// Views are the views of all volumes. Make them with New, and Close them.
type Views struct {
	log       *slog.Logger
	life      context.Context
	end       context.CancelFunc
	questions sync.WaitGroup

	mu      sync.Mutex
	volumes map[string]*state // by volume id; guarded by mu, with all that is in it
	asked   map[string]int    // questions under way, by sandbox id; guarded by mu
}

// state is what is known of one volume.
type state struct {
	sandbox     string // the one that was asked last
	stats       directvolume.VolumeStats
	at          time.Time
	silentSince time.Time
	question    *question // the one under way, nil if none
}

// question is one that was asked. Its error may be read once done is closed.
type question struct {
	begun time.Time
	done  chan struct{}
	err   error
}

// New makes empty views. What guests do is told to log.
func New(log *slog.Logger) *Views {
	v := &Views{log: log, volumes: map[string]*state{}, asked: map[string]int{}}
	v.life, v.end = context.WithCancel(context.Background())
	return v
}

// Close ends the questions that are under way, and waits for that.
func (v *Views) Close() {
	v.mu.Lock()
	v.end() // under the lock: no question begins after it
	v.mu.Unlock()
	v.questions.Wait()
}

// Look returns what the guest in the sandbox says of the volume, or after a bounded time what is known. A volume has one
// question at a time; who comes meanwhile waits for the same answer.
func (v *Views) Look(ctx context.Context, volume, sandbox string, ask Ask) View {
	q, patience := v.begin(volume, sandbox, ask)
	if q == nil {
		return v.view(volume, ErrSilent)
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-q.done:
		return v.view(volume, q.err)
	case <-timeout.C:
		v.silent(volume, q)
	case <-ctx.Done(): // the caller had no time, which says nothing of the guest
	}
	return v.view(volume, ErrSilent)
}

// NoMachine returns what is known of a volume that no machine has: nobody is silent then.
func (v *Views) NoMachine(volume string) View {
	v.mu.Lock()
	if s := v.volumes[volume]; s != nil {
		s.sandbox, s.silentSince, s.question = "", time.Time{}, nil
	}
	v.mu.Unlock()
	return v.view(volume, nil)
}

// Last returns what is known of a volume, and asks nobody.
func (v *Views) Last(volume string) View { return v.view(volume, nil) }

// Forget is for a volume that is deleted.
func (v *Views) Forget(volume string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.volumes, volume)
}

// Silent returns how long the guests that do not answer have been silent, by volume.
func (v *Views) Silent() map[string]time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	silent := map[string]time.Duration{}
	for id, s := range v.volumes {
		if !s.silentSince.IsZero() {
			silent[id] = time.Since(s.silentSince)
		}
	}
	return silent
}

// begin returns the question to wait for, and how long; nil if the sandbox has too many already.
func (v *Views) begin(volume, sandbox string, ask Ask) (*question, time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.volumes[volume]
	if s == nil {
		s = &state{}
		v.volumes[volume] = s
	}
	if s.sandbox != sandbox { // another machine: the silence of the one before is not its
		s.sandbox, s.silentSince, s.question = sandbox, time.Time{}, nil
	}
	patience := Patience
	if !s.silentSince.IsZero() {
		patience = grace
	}
	if s.question == nil && v.asked[sandbox] < maxQuestions && v.life.Err() == nil {
		s.question = &question{begun: time.Now(), done: make(chan struct{})}
		v.asked[sandbox]++
		q := s.question
		v.questions.Go(func() { v.ask(volume, sandbox, q, ask) })
	}
	return s.question, patience
}

// ask asks the guest and keeps its answer.
func (v *Views) ask(volume, sandbox string, q *question, ask Ask) {
	ctx, cancel := context.WithTimeout(v.life, questionTimeout)
	defer cancel()
	stats, err := ask(ctx)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(ErrSilent, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	defer close(q.done)
	q.err = err
	if v.asked[sandbox]--; v.asked[sandbox] == 0 {
		delete(v.asked, sandbox)
	}
	s := v.volumes[volume]
	if s == nil || s.question != q {
		return // forgotten, or in another machine by now
	}
	s.question = nil
	switch {
	case err == nil:
		s.stats, s.at = stats, time.Now()
	case errors.Is(err, ErrSilent):
		v.setSilent(volume, s, q)
		return
	}
	if !s.silentSince.IsZero() {
		v.log.Info("the guest answers again", "volume", volume, "sandbox", sandbox, "after", time.Since(s.silentSince), "error", err)
		s.silentSince = time.Time{}
	}
}

// silent remembers that nobody waits for the answer any longer.
func (v *Views) silent(volume string, q *question) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.volumes[volume]; s != nil && s.question == q {
		v.setSilent(volume, s, q)
	}
}

// setSilent is called with mu held.
func (v *Views) setSilent(volume string, s *state, q *question) {
	if !s.silentSince.IsZero() || v.life.Err() != nil {
		return
	}
	s.silentSince = q.begun
	v.log.Warn("the guest does not answer; stats and health of the volume are the last known until it does",
		"volume", volume, "sandbox", s.sandbox, "known", !s.at.IsZero(), "since", s.at)
}

func (v *Views) view(volume string, err error) View {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.volumes[volume]
	if s == nil {
		return View{Err: err}
	}
	return View{Stats: s.stats, At: s.at, Err: err, SilentSince: s.silentSince}
}
