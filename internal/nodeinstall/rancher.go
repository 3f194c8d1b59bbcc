package nodeinstall

import (
	"fmt"
	"path"

	"github.com/katadirect/katadirect/internal/nodeinstall/criconf"
)

// rancherNames are the template and the folder of drop-ins beside the configuration that k3s and RKE2 make, by its
// version.
var rancherNames = map[int]struct{ template, dropIns string }{
	2: {"config.toml.tmpl", "config.toml.d"},
	3: {"config-v3.toml.tmpl", "config-v3.toml.d"},
}

// planRancher plans for k3s and RKE2. They write containerd's configuration anew at each start: from a template, and,
// since the beginning of 2026, with a folder of drop-ins in its imports. What they have made last says which.
func (n *node) planRancher(in bool) ([]edit, error) {
	var edits []edit
	for _, version := range []int{2, 3} {
		removed, err := n.rancherRemoval(version)
		if err != nil {
			return nil, err
		}
		edits = append(edits, removed...)
	}
	if !in {
		return changed(edits...), nil
	}
	made, _, _, err := n.read(n.runtime.Config)
	if err != nil {
		return nil, err
	}
	version := criconf.Version(made)
	names, known := rancherNames[version]
	if !known {
		return nil, refuse("%s, which %s makes at its start, is not there or not of version 2 or 3; start %s once", n.runtime.Config, n.runtime.Kind, n.runtime.Kind)
	}
	imports, err := criconf.Imports(made)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.runtime.Config, err)
	}
	texts, err := n.imported(made)
	if err != nil {
		return nil, err
	}
	place := n.beside(names.dropIns, dropInName)
	delete(texts, place)
	texts[n.runtime.Config] = made
	if err := criconf.Free(n.handler(), texts); err != nil {
		return nil, err
	}
	wanted := place
	var text string
	if criconf.Covers(imports, n.runtime.Config, place) {
		text, err = criconf.DropIn(n.handler(), version)
	} else {
		wanted = n.beside(names.template)
		text, err = n.template(version).Add(n.handler())
	}
	if err != nil {
		return nil, err
	}
	for i := range edits {
		if edits[i].path == wanted {
			edits[i].backup = ""
			if wanted != place {
				edits[i].backup = edits[i].after // the template without ours
			}
			edits[i].after = text
		}
	}
	return changed(edits...), nil
}

func (n *node) beside(names ...string) string {
	return path.Join(append([]string{path.Dir(n.runtime.Config)}, names...)...)
}

func (n *node) template(version int) criconf.Template {
	place := n.beside(rancherNames[version].template)
	text, _, _, _ := n.read(place) // rancherRemoval has read it
	return criconf.Template{Path: place, Text: text, Version: version}
}

// rancherRemoval takes everything of ours out of the template and the drop-ins of a version. The edits are there also
// where there is nothing to take out.
func (n *node) rancherRemoval(version int) ([]edit, error) {
	drop, tmpl := edit{path: n.beside(rancherNames[version].dropIns, dropInName)}, edit{}
	var err error
	if drop.before, _, drop.mode, err = n.read(drop.path); err != nil {
		return nil, err
	}
	if drop.before != "" && !criconf.IsMine([]byte(drop.before)) {
		return nil, refuse("%s is there and was not made by this program; move it away", drop.path)
	}
	place := n.beside(rancherNames[version].template)
	if tmpl.before, tmpl.path, tmpl.mode, err = n.read(place); err != nil {
		return nil, err
	}
	if tmpl.path != place {
		return nil, refuse("%s is a link to %s, which %s is not known to follow; put the file itself there", place, tmpl.path, n.runtime.Kind)
	}
	tmpl.after, err = criconf.Template{Path: place, Text: tmpl.before, Version: version}.Remove()
	return []edit{tmpl, drop}, err
}
