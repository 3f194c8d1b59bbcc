package criconf

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Containerd is what there is of containerd's configuration.
type Containerd struct {
	// MainPath is the file's path on the host, Main its text, "" if there is none.
	MainPath, Main string
	// Imported are the texts of the files that it imports, by their paths, without DropInPath.
	Imported map[string]string
	// DropInPath is where a drop-in file is put where containerd reads such; DropIn is its text, "" if it is not there.
	DropInPath, DropIn string
	// Major is the first part of containerd's version, 0 if it is not known. Only a configuration without a version
	// of its own, or one with imports that containerd 1.x merges in its own way, needs it.
	Major int
}

// Result is what the files are to hold; "" is no file.
type Result struct{ Main, DropIn string }

// created begins a main file that was not there before.
const created = Mine + "\n"

// importPattern brings in the drop-in file. It has a wildcard, because containerd does not start when a file is missing
// that an import names without one.
func (c Containerd) importPattern() string {
	return path.Join(path.Dir(c.DropInPath), "*"+strings.TrimLeft(path.Base(c.DropInPath), "0123456789-"))
}

// Add adds the handler: a drop-in file where the configuration has version 3 (containerd 2.x), and a block in the file
// itself where it has version 2.
func (c Containerd) Add(h Handler) (Result, error) {
	if err := h.Check(); err != nil {
		return Result{}, err
	}
	clean, err := c.clean()
	if err != nil {
		return Result{}, c.in(err)
	}
	version, base, err := c.versionOf(clean)
	if err != nil {
		return Result{}, c.in(err)
	}
	if err := c.checkFree(h, version, base); err != nil {
		return Result{}, err
	}
	var r Result
	if version == 3 {
		r, err = c.addDropIn(h, base)
	} else {
		r, err = c.addBlock(h, base)
	}
	if err != nil {
		return Result{}, c.in(err)
	}
	back, err := Containerd{MainPath: c.MainPath, Main: r.Main, DropInPath: c.DropInPath, DropIn: r.DropIn}.Remove()
	if err != nil {
		return Result{}, c.in(err)
	}
	if back.Main != clean {
		return Result{}, c.in(refuse("the addition could not be taken out again exactly"))
	}
	return r, nil
}

// Remove takes the handler out, whatever its name.
func (c Containerd) Remove() (Result, error) {
	if c.DropIn != "" && !IsMine([]byte(c.DropIn)) {
		return Result{}, refuse("%s was not made by this program; move it away", c.DropInPath)
	}
	clean, err := c.clean()
	return Result{Main: clean}, c.in(err)
}

// clean is the main file without what this program has added, "" if that is all of it.
func (c Containerd) clean() (string, error) {
	if _, err := parseTOML(c.Main); err != nil {
		return "", err
	}
	text, err := cutBlock(c.Main)
	if err != nil {
		return "", err
	}
	if text, err = cutImport(text, c.importPattern()); err != nil {
		return "", err
	}
	if rest, made := strings.CutPrefix(text, created); made && (rest == "version = 2\n" || rest == "version = 3\n") {
		return "", nil
	}
	return text, nil
}

func (c Containerd) in(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", c.MainPath, err)
}

// versionOf is the version of the configuration, and the text to begin with: a file without any settings gets a version.
func (c Containerd) versionOf(clean string) (version int, base string, err error) {
	settings, err := parseTOML(clean)
	if err != nil {
		return 0, "", err
	}
	if len(settings) == 0 {
		return c.newVersion(clean)
	}
	v, there := settings["version"]
	switch number, _ := v.(int64); {
	case !there || number == 1:
		return 0, "", refuse(`it has no line "version = 2", so containerd takes it for version 1, which is no longer made; write it anew with "containerd config migrate", or "containerd config default"`)
	case criPlugin[int(number)] == "":
		return 0, "", refuse("version = %v is not known here (2 and 3 are)", v)
	default:
		version = int(number)
	}
	disabled, _ := settings["disabled_plugins"].([]any)
	for _, name := range disabled {
		if slices.Contains([]any{"cri", criPlugin[2], criPlugin[3]}, name) {
			return 0, "", refuse("disabled_plugins has %q: this containerd does not run Kubernetes' pods. Enable it, or say with --runtime what does", name)
		}
	}
	return version, clean, nil
}

// newVersion is versionOf for a file without settings: not there, empty, or only comments.
func (c Containerd) newVersion(clean string) (int, string, error) {
	var version int
	switch {
	case c.Major == 0:
		return 0, "", refuse("it has no settings, and the version of containerd, which decides how it must look, is not known")
	case c.Major == 1:
		version = 2
	default:
		version = 3
	}
	line := fmt.Sprintf("version = %d\n", version)
	if clean == "" {
		return version, created + line, nil
	}
	return 0, "", refuse("it has comments only; put %q into it, or remove it", strings.TrimSpace(line))
}

// checkFree refuses a handler that is there already and is not ours, in the file or in what it imports. It also refuses
// an addition that containerd would not see: containerd 1.x takes the whole table of a plugin from the last file that
// has one.
func (c Containerd) checkFree(h Handler, version int, base string) error {
	texts := map[string]string{c.MainPath: base}
	maps.Copy(texts, c.Imported)
	if err := Free(h, texts); err != nil {
		return err
	}
	for file, text := range texts {
		settings, err := parseTOML(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		replaced, err := lookUp(settings, "plugins", criPlugin[2])
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if file != c.MainPath && version == 2 && replaced != nil && c.Major < 2 {
			return fmt.Errorf("%s: %w", file, refuse("it is imported by %s and has the table plugins.%q, for which containerd 1.x leaves aside all that the other files say in theirs; move that table into %s",
				c.MainPath, criPlugin[2], c.MainPath))
		}
	}
	return nil
}

// Free refuses a handler that one of containerd's files has already, outside of what this program has added.
func Free(h Handler, files map[string]string) error {
	for file, text := range files {
		text, err := cutBlock(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		settings, err := parseTOML(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for v := range criPlugin {
			there, err := lookUp(settings, h.path(v)...)
			if err == nil && there != nil {
				err = refuse("it has a runtime %q already, which is not of this program's making; remove it, or choose another name with --handler", h.Name)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return nil
}

func (c Containerd) addBlock(h Handler, base string) (Result, error) {
	text := appendBlock(base, h.table(2))
	return Result{Main: text}, onlyAdds(base, text, h.path(2), "")
}

func (c Containerd) addDropIn(h Handler, base string) (Result, error) {
	if c.DropIn != "" && !IsMine([]byte(c.DropIn)) {
		return Result{}, refuse("%s is there and was not made by this program; move it away", c.DropInPath)
	}
	dropIn, err := DropIn(h, 3)
	if err != nil {
		return Result{}, err
	}
	r := Result{Main: base, DropIn: dropIn}
	settings, err := parseTOML(base)
	if err != nil {
		return Result{}, err
	}
	if Covers(importsOf(settings), c.MainPath, c.DropInPath) {
		return r, nil
	}
	if r.Main, err = addImport(base, c.importPattern()); err != nil {
		return Result{}, err
	}
	return r, onlyAdds(base, r.Main, nil, c.importPattern())
}

// Probe is a main file for a trial: the text with an import of the file that the drop-in is tried under.
func (r Result) Probe(dropInPath string) (string, error) {
	if r.DropIn == "" {
		return r.Main, nil
	}
	list, _, err := topLevel(r.Main)
	if err != nil || list == nil || len(list.elements) == 0 {
		return "", refuse("it has no imports to add the trial to (%v)", err)
	}
	// At the end, because the last one wins: the drop-in file of an older version may be there.
	at := list.elements[len(list.elements)-1].to
	return fmt.Sprintf("%s, %q%s", r.Main[:at], dropInPath, r.Main[at:]), nil
}

// Imports are the patterns of the files that a configuration imports.
func Imports(text string) ([]string, error) {
	settings, err := parseTOML(text)
	if err != nil {
		return nil, err
	}
	if list, there := settings["imports"]; there {
		if _, is := list.([]any); !is {
			return nil, refuse("imports is no list")
		}
	}
	return importsOf(settings), nil
}

// HasHandler reports whether a configuration, such as "containerd config dump" prints, has the handler with its shim.
func HasHandler(text string, h Handler) bool {
	settings, err := parseTOML(text)
	if err != nil {
		return false
	}
	for version := range criPlugin {
		if there, _ := lookUp(settings, h.path(version)...); there["runtime_path"] == h.Shim {
			return true
		}
	}
	return false
}

// DropIn is a drop-in file of containerd's for a configuration of the version.
func DropIn(h Handler, version int) (string, error) {
	if err := h.Check(); err != nil {
		return "", err
	}
	if criPlugin[version] == "" {
		return "", refuse("version = %d is not known here (2 and 3 are)", version)
	}
	head := fmt.Sprintf("version = %d\n", version)
	text := Mine + "\n" + head + "\n" + h.table(version)
	return text, onlyAdds(head, text, h.path(version), "")
}

// Version is the version of a configuration that another program has made, and 0 for what is none.
func Version(text string) int {
	settings, err := parseTOML(text)
	if err != nil {
		return 0
	}
	version, _ := settings["version"].(int64)
	return int(version)
}
