package criconf

import (
	"fmt"
	"regexp"
	"strings"
	"text/template/parse"
)

// createdTemplate begins a template that was not there before: what k3s and RKE2 would write without one.
const createdTemplate = "{{- /* " + Mine + " */ -}}\n{{ template \"base\" . }}\n"

// Template is the template that k3s or RKE2 makes containerd's configuration from.
type Template struct {
	Path, Text string // Text is "" if there is none
	// Version is that of the configuration that it makes.
	Version int
}

// Add adds the handler at the end of the template.
func (t Template) Add(h Handler) (string, error) {
	text, err := t.add(h)
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.Path, err)
	}
	return text, nil
}

func (t Template) add(h Handler) (string, error) {
	if err := h.Check(); err != nil {
		return "", err
	}
	if criPlugin[t.Version] == "" {
		return "", refuse("it makes a configuration of version %d, which is not known here", t.Version)
	}
	clean, err := t.remove()
	if err != nil {
		return "", err
	}
	taken := regexp.MustCompile(`runtimes\.['"]?` + regexp.QuoteMeta(h.Name) + `['"]?\s*[.\]]`)
	if taken.MatchString(clean) {
		return "", refuse("it has a runtime %q already, which is not of this program's making; remove it, or choose another name with --handler", h.Name)
	}
	if !strings.Contains(clean, "{{") && clean != "" {
		settings, err := parseTOML(clean)
		if err != nil {
			return "", err
		}
		if v, _ := settings["version"].(int64); int(v) != t.Version {
			return "", refuse("it says version = %v, and %d is what k3s and RKE2 expect in it", settings["version"], t.Version)
		}
	}
	before := clean
	if clean == "" {
		before = createdTemplate
	}
	text := appendBlock(before, h.table(t.Version))
	for _, each := range []string{before, text} {
		if err := parses(each); err != nil {
			return "", refuse("it is no template: %v", err)
		}
	}
	if back, err := (Template{Path: t.Path, Text: text}).remove(); err != nil || back != clean {
		return "", refuse("the addition could not be taken out again exactly (%v)", err)
	}
	return text, nil
}

// Remove takes the handler out; "" is a template that was not there before.
func (t Template) Remove() (string, error) {
	text, err := t.remove()
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.Path, err)
	}
	return text, nil
}

func (t Template) remove() (string, error) {
	text, err := cutBlock(t.Text)
	if text == createdTemplate {
		text = "" // it was made for the block
	}
	return text, err
}

func parses(text string) error {
	tree := parse.New("config")
	tree.Mode = parse.SkipFuncCheck
	_, err := tree.Parse(text, "", "", map[string]*parse.Tree{})
	return err
}
