package nodeinstall

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/katadirect/katadirect/internal/nodeinstall/cristatus"
	"github.com/katadirect/katadirect/internal/nodeinstall/hostfs"
	"github.com/katadirect/katadirect/internal/nodeinstall/kubenode"
)

// open gets hold of the host. The node's other installers wait, except for a dry run's.
func open(ctx context.Context, o Options) (*node, func(), error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	root, err := hostfs.Open(o.HostRoot)
	if err != nil {
		return nil, nil, err
	}
	root.Step = o.Step
	n := &node{Options: o, root: root}
	closeRoot := func() { _ = root.Close() }
	if err := n.findRuntime(ctx); err != nil {
		closeRoot()
		return nil, nil, err
	}
	return n, closeRoot, nil
}

// locked runs with the node's lock.
func (n *node) locked(ctx context.Context, work func() error) error {
	if n.DryRun {
		return work()
	}
	if err := n.root.MkdirAll(path.Dir(lockFile), 0o755); err != nil {
		return err
	}
	lock, err := n.root.Lock(ctx, lockFile)
	if err != nil {
		return fmt.Errorf("wait for another installer on this node: %w", err)
	}
	defer lock.Close()
	return work()
}

// Install brings the node to have this version, and tells Kubernetes how that went. Doing it again changes nothing.
func Install(ctx context.Context, o Options) (Report, error) {
	r := Report{Operation: "install", DryRun: o.DryRun, Handler: o.Handler, Changes: []Change{}}
	n, done, err := open(ctx, o)
	if err != nil {
		return r.failed(err), tell(ctx, o, err)
	}
	defer done()
	r.Handler = n.Handler
	err = n.locked(ctx, func() error { return n.install(ctx, &r) })
	if err != nil {
		return r.failed(err), tell(ctx, n.Options, err)
	}
	return r, nil
}

func (r Report) failed(err error) Report {
	r.Error = err.Error()
	return r
}

func (n *node) install(ctx context.Context, r *Report) error {
	if err := n.findMachine(); err != nil {
		return err
	}
	p, err := n.gather()
	if err != nil {
		return err
	}
	r.Version = p.key
	running, askErr := n.ask(ctx)
	r.Runtime = describe(n.runtime.Kind, running)
	major := running.Major()
	if askErr != nil {
		// Somebody was killed between a change and the restart; or it is not the runtime's socket, or does not run.
		if !n.DryRun && !n.root.Exists(n.restartPending()) {
			return refuse("the container runtime must run and answer, so that it can be seen to come up again: %v", askErr)
		}
		r.warn("the container runtime does not answer now: %v", askErr)
		major = n.majorByProgram(ctx)
	}
	edits, err := n.planEdits(true, major)
	if err != nil {
		return err
	}
	files, err := n.planFiles(p, r)
	if err != nil {
		return err
	}
	// Files first: a handler without its shim fails the pods that come at that moment.
	if err := n.perform(ctx, r, files...); err != nil {
		return err
	}
	if err := n.reconfigure(ctx, r, edits, true, n.needsRestart(running, askErr)); err != nil {
		return err
	}
	if err := n.label(ctx, r, p.key); err != nil {
		return err
	}
	return n.prune(ctx, r, p.key)
}

// needsRestart is whether the running program may not have read what stands in its files.
func (n *node) needsRestart(running cristatus.Status, askErr error) bool {
	h := n.handler()
	return askErr != nil || n.root.Exists(n.restartPending()) || !running.Has(h.Name, h.Shim)
}

// planFiles plans the version's folder and the links to it.
func (n *node) planFiles(p payload, r *Report) ([]Change, error) {
	changes, err := n.planVersion(p)
	if err != nil {
		return nil, err
	}
	if !n.root.Exists(n.SettingsDir) {
		changes = append(changes, Change{Action: "create", Path: n.SettingsDir, Detail: "a folder for settings of your own",
			do: func(context.Context) error { return n.root.MkdirAll(n.SettingsDir, 0o755) }})
	}
	folder := path.Base(n.versions())
	if old := n.keyOf(n.current()); old != p.key {
		if old != "" && n.keyOf(n.previous()) != old {
			changes = append(changes, n.linkChange(path.Join(folder, old), n.previous()))
		}
		changes = append(changes, n.linkChange(path.Join(folder, p.key), n.current()))
	}
	return append(changes, n.planToolLink(r)...), nil
}

func (n *node) linkChange(target, place string) Change {
	return Change{Action: "link", Path: place, Detail: "to " + target, do: func(context.Context) error { return n.link(target, place) }}
}

// planToolLink puts the tool into the host's path, unless something of that name is there. Hosts whose /usr cannot be
// written get a warning.
func (n *node) planToolLink(r *Report) []Change {
	if n.ToolLink == "none" {
		return nil
	}
	target := path.Join(n.current(), "bin", toolName)
	if old, err := n.root.Readlink(n.ToolLink); err == nil && old == target {
		return nil
	} else if err == nil || errors.Is(err, hostfs.ErrLink) {
		r.warn("%s is there and leads elsewhere; it stays, and the tool is %s", n.ToolLink, target)
		return nil
	}
	return []Change{{Action: "link", Path: n.ToolLink, Detail: "to " + target, do: func(context.Context) error {
		if err := n.link(target, n.ToolLink); err != nil {
			r.warn("%s could not be made, the tool is %s: %v", n.ToolLink, target, err)
		}
		return nil
	}}}
}

// label tells Kubernetes that pods may come, unless it knows.
func (n *node) label(ctx context.Context, r *Report, key string) error {
	if n.Node == nil {
		return nil
	}
	says, err := n.Node.Says(ctx)
	if err != nil || says.Ready(key) {
		return err
	}
	return n.perform(ctx, r, Change{
		Action: "label", Path: n.Node.Name, Detail: kubenode.Label + "=true, " + kubenode.VersionAnnotation + "=" + key,
		do: func(ctx context.Context) error { return n.Node.SetReady(ctx, key) },
	})
}

// prune removes versions that are neither new, nor the way back, nor needed by a pod.
func (n *node) prune(ctx context.Context, r *Report, key string) error {
	versions, err := n.listVersions()
	if err != nil {
		r.warn("old versions stay: %v", err)
		return nil
	}
	previous := n.keyOf(n.previous())
	for _, v := range versions {
		switch {
		case v.Key == key, v.Key == previous:
		case len(v.UsedBy) > 0:
			r.Left = append(r.Left, v)
		default:
			if err := n.perform(ctx, r, n.removeVersion(v.Key)); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeVersion removes a version's folder. The note that it is whole goes first.
func (n *node) removeVersion(key string) Change {
	folder := n.version(key)
	return Change{Action: "remove", Path: folder, do: func(context.Context) error {
		if err := n.root.Remove(path.Join(folder, manifestName)); err != nil {
			return err
		}
		return n.root.RemoveAll(folder)
	}}
}

// tell says on the node what has failed, and returns the error with what failed in that.
func tell(ctx context.Context, o Options, err error) error {
	if o.Node == nil || o.DryRun {
		return err
	}
	reason := kubenode.Failed
	switch {
	case errors.Is(err, ErrInUse):
		reason = kubenode.Waiting
	case errors.Is(err, ErrRefused):
		reason = kubenode.Refused
	case errors.Is(err, ErrTakenBack):
		reason = kubenode.TakenBack
	}
	return errors.Join(err, o.Node.SetFailed(context.WithoutCancel(ctx), reason, err.Error(), o.stillThere(ctx)))
}

// stillThere is whether the runtime has the handler, with an older version behind it for instance.
func (o Options) stillThere(ctx context.Context) bool {
	o.Node = nil
	s, err := Look(ctx, o)
	return err == nil && s.HasHandler && s.Current != ""
}
