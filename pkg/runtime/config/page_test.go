package config

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is the reference, by its sections.
func page(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := make(map[string]string)
	for section := range strings.SplitSeq(string(text), "\n## ") {
		title, body, _ := strings.Cut(section, "\n")
		sections[strings.Trim(title, "`# ")] = body
	}
	return sections
}

var firstCell = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

// cells are the words in the first column of a section's table.
func cells(section string) []string {
	var found []string
	for _, match := range firstCell.FindAllStringSubmatch(section, -1) {
		found = append(found, match[1])
	}
	slices.Sort(found)
	return found
}

func TestThePageAndTheCodeHaveTheSameKeys(t *testing.T) {
	sections := page(t)
	for title, table := range map[string]any{
		"[hypervisor.qemu]": hypervisorTable{}, "[agent.kata]": agentTable{}, "[runtime]": runtimeTable{}, "[katadirect]": directTable{},
	} {
		var keys []string
		for field := range reflect.TypeOf(table).Fields() {
			keys = append(keys, field.Tag.Get("toml"))
		}
		slices.Sort(keys)
		if diff := compare(cells(sections[title]), keys); diff != "" {
			t.Errorf("%s: the page and the code differ: %s", title, diff)
		}
	}
	if diff := compare(cells(sections["Annotations of a pod"]), slices.Sorted(maps.Keys(annotations))); diff != "" {
		t.Errorf("annotations: the page and the code differ: %s", diff)
	}
}

func TestThePageNamesTheKeysWithoutAnEffect(t *testing.T) {
	body, _, _ := strings.Cut(page(t)["Keys of Kata's without an effect"], "Kata's further keys")
	var listed, want []string
	for _, match := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(body, -1) {
		listed = append(listed, match[1])
	}
	for _, key := range unused {
		want = append(want, key[strings.LastIndex(key, ".")+1:])
	}
	slices.Sort(listed)
	slices.Sort(want)
	if diff := compare(listed, slices.Compact(want)); diff != "" {
		t.Error(diff)
	}
	for _, key := range refused {
		if !strings.Contains(page(t)["When something is wrong with it"], key[strings.LastIndex(key, ".")+1:]) {
			t.Errorf("the page does not say that %s is refused", key)
		}
	}
}
