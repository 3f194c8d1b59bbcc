package nodeinstall

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/katadirect/katadirect/internal/nodeinstall/hostfs"
	"github.com/katadirect/katadirect/internal/nodeinstall/kubenode"
)

// Uninstall takes everything back that Install has done. While pods run it refuses with ErrInUse: with LeaveInUse it
// sees to it that no more come, removes what they do not need, and says what was left.
func Uninstall(ctx context.Context, o Options) (Report, error) {
	r := Report{Operation: "uninstall", DryRun: o.DryRun, Handler: o.Handler, Changes: []Change{}}
	n, done, err := open(ctx, o)
	if err != nil {
		return r.failed(err), tell(ctx, o, err)
	}
	defer done()
	r.Handler = n.Handler
	if err := n.locked(ctx, func() error { return n.uninstall(ctx, &r) }); err != nil {
		return r.failed(err), tell(ctx, n.Options, err)
	}
	return r, nil
}

func (n *node) uninstall(ctx context.Context, r *Report) error {
	running, askErr := n.ask(ctx)
	r.Runtime = describe(n.runtime.Kind, running)
	versions, err := n.listVersions()
	if err != nil {
		return err
	}
	inUse := n.checkUnused(versions)
	if inUse != nil && !n.LeaveInUse {
		return inUse
	}
	edits, err := n.planEdits(false, running.Major())
	if err != nil {
		return err
	}
	// No pods come any more, then the runtime forgets the handler, then the files go.
	says, err := n.unlabel(ctx, r)
	if err != nil {
		return err
	}
	if inUse != nil {
		return errors.Join(inUse, n.leave(ctx, r, versions))
	}
	h := n.handler()
	stillThere := askErr == nil && running.KnowsHandlers && running.Has(h.Name, h.Shim)
	if err := n.reconfigure(ctx, r, edits, false, n.root.Exists(n.restartPending()) || stillThere); err != nil {
		return err
	}
	if err := n.removeFiles(ctx, r); err != nil {
		return err
	}
	if says.Condition != nil {
		return n.perform(ctx, r, Change{Action: "forget", Path: n.Node.Name, Detail: "the node's condition", do: n.Node.SetGone})
	}
	return nil
}

// unlabel sees to it that no more pods come, and returns what Kubernetes knew.
func (n *node) unlabel(ctx context.Context, r *Report) (kubenode.Says, error) {
	if n.Node == nil {
		return kubenode.Says{}, nil
	}
	says, err := n.Node.Says(ctx)
	if err == nil && (says.Labelled || says.Version != "") {
		err = n.perform(ctx, r, Change{Action: "unlabel", Path: n.Node.Name, do: n.Node.Leave})
	}
	return says, err
}

func (n *node) checkUnused(versions []Version) error {
	var users []string
	for _, v := range versions {
		users = append(users, v.UsedBy...)
	}
	if len(users) == 0 {
		return nil
	}
	const enough = 5
	return fmt.Errorf("%w: %s; remove them (kubectl drain, or by their RuntimeClass). --leave-in-use takes away meanwhile what they do not need",
		ErrInUse, strings.Join(users[:min(len(users), enough)], ", "))
}

// leave removes the versions that nobody needs. The handler stays: containerd looks it up for every exec, and so for
// probes, of the pods that run. So does the current version, through which it calls the shim to clean up after them.
func (n *node) leave(ctx context.Context, r *Report, versions []Version) error {
	for _, v := range versions {
		if v.Current || len(v.UsedBy) > 0 {
			r.Left = append(r.Left, v)
		} else if err := n.perform(ctx, r, n.removeVersion(v.Key)); err != nil {
			return err
		}
	}
	return nil
}

// removeFiles removes the versions, and all that led to them.
func (n *node) removeFiles(ctx context.Context, r *Report) error {
	// Again: a pod may have come until the handler was gone.
	versions, err := n.listVersions()
	if err != nil {
		return err
	}
	if err := n.checkUnused(versions); err != nil {
		return errors.Join(err, n.leave(ctx, r, versions))
	}
	for _, v := range versions {
		if err := n.perform(ctx, r, n.removeVersion(v.Key)); err != nil {
			return err
		}
	}
	changes := n.planBackup(r)
	if target, err := n.root.Readlink(n.ToolLink); err == nil && target == path.Join(n.current(), "bin", toolName) {
		changes = append(changes, n.removal(n.ToolLink))
	}
	for _, place := range []string{n.current(), n.previous()} {
		if _, err := n.root.Readlink(place); err == nil {
			changes = append(changes, n.removal(place))
		}
	}
	return n.perform(ctx, r, append(changes, n.planFolders()...)...)
}

func (n *node) removal(place string) Change {
	return Change{Action: "remove", Path: place, do: func(context.Context) error { return n.root.Remove(place) }}
}

// planBackup removes the copy of the configuration if the configuration is as it was, and warns otherwise.
func (n *node) planBackup(r *Report) []Change {
	var changes []Change
	places := []string{n.runtime.Config}
	for _, names := range rancherNames {
		places = append(places, n.beside(names.template))
	}
	for _, place := range places {
		now, realPath, _, err := n.read(place)
		if err != nil {
			continue
		}
		backup, _, err := n.root.ReadFile(realPath + backupSuffix)
		if err != nil {
			continue
		}
		if n.DryRun || string(backup) == now {
			changes = append(changes, n.removal(realPath+backupSuffix))
			continue
		}
		r.warn("%s has changed since the installation; what it was then stays in %s", realPath, realPath+backupSuffix)
	}
	return changes
}

// planFolders removes the folders, but for what somebody else has put there: the administrator's settings, for instance.
func (n *node) planFolders() []Change {
	places := []string{n.versions(), n.Prefix, n.SettingsDir}
	if parent := path.Dir(n.SettingsDir); path.Base(parent) == "katadirect" {
		places = append(places, parent)
	}
	var changes []Change
	for _, place := range places {
		if n.root.Exists(place) {
			changes = append(changes, Change{Action: "remove", Path: place, Detail: "if it is empty",
				do: func(context.Context) error { return n.removeIfEmpty(place) }})
		}
	}
	return changes
}

func (n *node) removeIfEmpty(place string) error {
	if err := n.root.RemoveTemporary(place); err != nil {
		return err
	}
	if err := n.root.Remove(place); err != nil && !errors.Is(err, hostfs.ErrNotEmpty) {
		return err
	}
	return nil
}
