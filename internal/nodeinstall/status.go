package nodeinstall

import (
	"context"
	"errors"
)

// Status is how the runtime is on a node.
type Status struct {
	Runtime  string    `json:"runtime"`
	Handler  string    `json:"handler"`
	Current  string    `json:"current,omitempty"` // the version of new pods
	Versions []Version `json:"versions"`
	// Configured is whether the runtime's configuration has the handler as this program would write it, HasHandler
	// whether the running runtime has it.
	Configured     bool `json:"configured"`
	HasHandler     bool `json:"hasHandler"`
	RestartPending bool `json:"restartPending"`
	// Problems are what stands in the way, in words.
	Problems []string `json:"problems,omitempty"`
}

// Ready is whether pods can run with what is there.
func (s Status) Ready() bool {
	return s.Current != "" && s.HasHandler && s.Configured && !s.RestartPending
}

// Absent is whether there is nothing of it on the node.
func (s Status) Absent() bool {
	return s.Current == "" && !s.HasHandler && !s.Configured && !s.RestartPending && len(s.Versions) == 0
}

// Look says how it is on the node. It changes nothing.
func Look(ctx context.Context, o Options) (Status, error) {
	o.DryRun = true
	told := o.Node
	o.Node = nil // probes ask often: the API server is asked only where the host itself does not say which runtime it is
	n, done, err := open(ctx, o)
	if err != nil && told != nil {
		o.Node = told
		n, done, err = open(ctx, o)
	}
	if err != nil {
		return Status{}, err
	}
	defer done()
	s := Status{Handler: n.Handler, Current: n.keyOf(n.current()), RestartPending: n.root.Exists(n.restartPending()), Versions: []Version{}}
	problem := func(err error) {
		if err != nil {
			s.Problems = append(s.Problems, err.Error())
		}
	}
	running, askErr := n.ask(ctx)
	problem(askErr)
	s.Runtime = describe(n.runtime.Kind, running)
	h := n.handler()
	s.HasHandler = askErr == nil && running.Has(h.Name, h.Shim)
	versions, err := n.listVersions()
	problem(err)
	s.Versions = append(s.Versions, versions...)
	in, err := n.planEdits(true, running.Major())
	problem(err)
	out, outErr := n.planEdits(false, running.Major())
	s.Configured = err == nil && outErr == nil && len(in) == 0 && len(out) > 0
	if !running.KnowsHandlers {
		s.HasHandler = s.HasHandler && s.Configured
	}
	if s.Current != "" && !n.root.Exists(n.handler().Shim) {
		problem(errors.New(n.handler().Shim + " is missing"))
		s.Current = ""
	}
	return s, nil
}
