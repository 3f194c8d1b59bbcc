package task

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestOnlyTheMovesOfItsStateAreOpenToAProcess(t *testing.T) {
	t.Parallel()
	exit := Exit{Status: 1, At: time.Unix(1, 0)}
	moves := map[string]func(*life) error{
		"create":        func(l *life) error { return move(l, "", creating.created) },
		"give up":       func(l *life) error { return move(l, "", creating.failed) },
		"start":         func(l *life) error { return move(l, "", created.start) },
		"started":       func(l *life) error { return move(l, "", starting.started) },
		"pause":         func(l *life) error { return move(l, "", running.pause) },
		"resume":        func(l *life) error { return move(l, "", paused.resume) },
		"exit":          func(l *life) error { return move(l, "", func(a alive) state { return a.exit(exit) }) },
		"delete":        func(l *life) error { return move(l, "", stopped.delete) },
		"fail delete":   func(l *life) error { return move(l, "", deleting.failed) },
		"finish delete": func(l *life) error { return move(l, "", deleting.done) },
	}
	for _, from := range []struct {
		state state
		open  map[string]state
	}{
		{creating{}, map[string]state{"create": created{}, "give up": gone{}}},
		{created{}, map[string]state{"start": starting{}, "exit": stopped{exit}}},
		{starting{}, map[string]state{"started": running{}, "exit": stopped{exit}}},
		{running{}, map[string]state{"pause": paused{}, "exit": stopped{exit}}},
		{paused{}, map[string]state{"resume": running{}, "exit": stopped{exit}}},
		{stopped{exit}, map[string]state{"delete": deleting{exit}}},
		{deleting{exit}, map[string]state{"fail delete": stopped{exit}, "finish delete": gone{exit}}},
		{gone{exit}, nil},
	} {
		for name, try := range moves {
			l := newLife(from.state)
			err := try(l)
			want, open := from.open[name]
			if !open {
				want = from.state
			}
			if open != (err == nil) || !open && !errors.Is(err, ErrState) {
				t.Errorf("%s when %s: %v", name, from.state, err)
			}
			if l.now() != want {
				t.Errorf("%s when %s leads to %s, want %s", name, from.state, l.now(), want)
			}
		}
	}
}

func TestWaitingForAProcessToSettleEndsWithTheMoveOrTheCaller(t *testing.T) {
	t.Parallel()
	l := newLife(starting{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.settled(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the caller's end", err)
	}
	settled := make(chan state)
	go func() {
		s, _ := l.settled(t.Context())
		settled <- s
	}()
	if err := move(l, "", starting.started); err != nil {
		t.Fatal(err)
	}
	if got := <-settled; got != (running{}) {
		t.Errorf("settled as %s", got)
	}
}
