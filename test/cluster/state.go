package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// state is the folder where the keeper says what runs. The keeper holds a lock on it for as long as it lives.
type state struct{ dir string }

// info is what others must know of a running cluster.
type info struct {
	// PID is the keeper's.
	PID int `json:"pid"`
	// Init is the first process in the cluster's namespaces.
	Init int `json:"init"`
	// Dir holds logs and everything else of the run.
	Dir string `json:"dir"`
	// Registry is where images can be pushed to.
	Registry string `json:"registry"`
	// Programs is the folder with kubectl.
	Programs string `json:"programs"`
}

var errNotRunning = errors.New(`no cluster is running; "make cluster" starts one`)

func openState() (*state, error) {
	dir, err := filepath.Abs("out/cluster")
	if err != nil {
		return nil, err
	}
	return &state{dir}, os.MkdirAll(dir, 0o755)
}

func (s *state) kubeconfig() string { return filepath.Join(s.dir, "kubeconfig") }
func (s *state) log() string        { return filepath.Join(s.dir, "cluster.log") }
func (s *state) info() string       { return filepath.Join(s.dir, "cluster.json") }

// lock makes the caller the keeper. It fails with unix.EWOULDBLOCK when there is one.
func (s *state) lock() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return f, err
}

// keeper is the process id of the keeper, or errNotRunning.
func (s *state) keeper() (int, error) {
	f, err := os.Open(filepath.Join(s.dir, "lock"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, errNotRunning
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		return 0, errNotRunning // and our lock goes with f
	}
	var pid int
	if _, err := fmt.Fscan(f, &pid); err != nil {
		return 0, fmt.Errorf("read who keeps the cluster: %w", err)
	}
	return pid, nil
}

// waitFree returns when there is no keeper any more.
func (s *state) waitFree(ctx context.Context) error {
	for {
		if _, err := s.keeper(); err != nil {
			if errors.Is(err, errNotRunning) {
				return nil
			}
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read returns what the keeper has written when the cluster was ready.
func (s *state) read() (info, error) {
	var i info
	if _, err := s.keeper(); err != nil {
		return i, err
	}
	raw, err := os.ReadFile(s.info())
	if errors.Is(err, os.ErrNotExist) {
		return i, errors.New("the cluster is starting or stopping")
	}
	if err != nil {
		return i, err
	}
	return i, json.Unmarshal(raw, &i)
}

func (s *state) write(i info) error {
	raw, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.info(), append(raw, '\n'), 0o644)
}

// clear removes what only a running cluster has. The log stays for whoever looks for a fault.
func (s *state) clear() error {
	var errs []error
	for _, path := range []string{s.info(), s.kubeconfig()} {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// forget removes the folder, with the log and what machines booted.
func (s *state) forget() error {
	lock, err := s.lock() // whoever starts a cluster at this moment goes first
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(s.dir), lock.Close())
}

// logTail is the end of the keeper's log.
func (s *state) logTail() string {
	said, _ := os.ReadFile(s.log())
	const enough = 4000
	return string(said[max(0, len(said)-enough):])
}
