package criconf

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/pelletier/go-toml/v2"
)

// parseTOML reads TOML. The error says where it is wrong.
func parseTOML(text string) (map[string]any, error) {
	settings := map[string]any{}
	err := toml.Unmarshal([]byte(text), &settings)
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		row, column := wrong.Position()
		return nil, refuse("it is no TOML: line %d, column %d: %v", row, column, wrong)
	}
	if err != nil {
		return nil, refuse("it is no TOML: %v", err)
	}
	return settings, nil
}

// lookUp walks into nested tables. A value that is no table where one has to be gives an ErrRefused.
func lookUp(settings map[string]any, path ...string) (map[string]any, error) {
	for i, key := range path {
		value, there := settings[key]
		if !there {
			return nil, nil
		}
		table, is := value.(map[string]any)
		if !is {
			return nil, refuse("%v is no table", path[:i+1])
		}
		settings = table
	}
	return settings, nil
}

// without returns the settings less what the path leads to, and less tables on the way that are empty then and that
// are not in like.
func without(settings, like map[string]any, path []string) map[string]any {
	out := maps.Clone(settings)
	table, is := out[path[0]].(map[string]any)
	if len(path) == 1 || !is {
		delete(out, path[0])
		return out
	}
	old, wasThere := like[path[0]].(map[string]any)
	table = without(table, old, path[1:])
	if len(table) == 0 && !wasThere {
		delete(out, path[0])
	} else {
		out[path[0]] = table
	}
	return out
}

// onlyAdds is the proof of an edit: after has what the path leads to, and is before in all else. The import, unless it
// is "", may have come to the list imports.
func onlyAdds(before, after string, path []string, imported string) error {
	old, err := parseTOML(before)
	if err != nil {
		return err
	}
	now, err := parseTOML(after)
	if err != nil {
		return fmt.Errorf("with the addition %w", err)
	}
	if path != nil {
		if added, err := lookUp(now, path...); err != nil || added == nil {
			return refuse("the addition would not be seen in it (%v)", err)
		}
		now = without(now, old, path)
	}
	if imported != "" {
		list := importsOf(now)
		if !slices.Contains(list, imported) {
			return refuse("the import would not be seen in it")
		}
		list = slices.DeleteFunc(list, func(s string) bool { return s == imported })
		if _, had := old["imports"]; !had && len(list) == 0 {
			delete(now, "imports")
		} else {
			now["imports"] = anys(list)
		}
	}
	if !reflect.DeepEqual(old, now) {
		return refuse("the addition would change something else in it")
	}
	return nil
}

// importsOf are the strings of the list imports.
func importsOf(settings map[string]any) []string {
	list, _ := settings["imports"].([]any)
	var out []string
	for _, value := range list {
		if s, is := value.(string); is {
			out = append(out, s)
		}
	}
	return out
}

func anys(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}
