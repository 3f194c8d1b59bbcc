package csi

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// docs/storageclass.md has a row for all that a class can say. (internal/mkfs looks at the options of mkfs.)

// pageSection is a section of the page.
func pageSection(t *testing.T, title string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/storageclass.md")
	must(t, err)
	_, section, found := strings.Cut(string(text), "\n## "+title+"\n")
	if !found {
		t.Fatalf("the page has no section %q", title)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	return section
}

// pageRows are the rows of a section's tables: all words in the style of code, by cell.
func pageRows(section string) (rows [][][]string) {
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		var row [][]string
		for cell := range strings.SplitSeq(strings.Trim(line, "| \n"), " | ") {
			var words []string
			for _, found := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(cell, -1) {
				words = append(words, found[1])
			}
			row = append(row, words)
		}
		rows = append(rows, row)
	}
	return rows
}

// sameWords compares what the page has with what the code has, in any order.
func sameWords(t *testing.T, what string, page, code []string) {
	t.Helper()
	for _, word := range code {
		if !slices.Contains(page, word) {
			t.Errorf("%s: the page does not have %s", what, word)
		}
	}
	for _, word := range page {
		if !slices.Contains(code, word) {
			t.Errorf("%s: the page has %s, which the code does not", what, word)
		}
	}
}

func TestThePageHasEveryParameterAndItsValues(t *testing.T) {
	section := pageSection(t, "Parameters")
	var page, code []string
	values := map[string][]string{}
	for _, row := range pageRows(section) {
		if page = append(page, row[0]...); len(row[0]) == 1 {
			values[row[0][0]] = row[1]
		}
	}
	for _, known := range knownParameters {
		code = append(code, known.key)
		for _, value := range values[known.key] {
			if strings.HasPrefix(value, "--") {
				continue // a flag of the driver, which bounds the value
			}
			if err := known.read(&parameters{}, value); err != nil {
				t.Errorf("%s: the page has the value %s: %v", known.key, value, err)
			}
		}
	}
	sameWords(t, "parameters", page, code)
	sameWords(t, "file systems", values[parameterFSType], supportedFileSystems)
	for _, key := range informative {
		if !strings.Contains(section, "`"+key+"`") {
			t.Errorf("the page does not have %s", key)
		}
	}
}

func TestThePageHasEveryMountOption(t *testing.T) {
	page := map[string][]string{}
	for line := range strings.Lines(pageSection(t, "Mount options")) {
		if name, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |"); strings.HasPrefix(line, "| ") {
			page[name] = pageRows(line)[0][1]
		}
	}
	sameWords(t, "all file systems", page["all"], flagOptions)
	for fsType, options := range fsOptions {
		var code []string
		for _, option := range options {
			switch {
			case optionAllowed(fsType, option+"8k"):
				option += "SIZE"
			case optionAllowed(fsType, option+"8"):
				option += "N"
			}
			code = append(code, option)
		}
		sameWords(t, fsType, page[fsType], code)
	}
}

func TestThePageHasEveryLimit(t *testing.T) {
	var page, code []string
	section, _, _ := strings.Cut(pageSection(t, "VolumeAttributesClass"), "| what is wrong |")
	for _, row := range pageRows(section) {
		page = append(page, row[0]...)
	}
	for _, name := range directvolume.LimitNames() {
		code = append(code, mutablePrefix+name)
	}
	sameWords(t, "limits", page, code)
	for _, bounds := range []string{
		fmt.Sprintf("`katadirect.io/iops` | %d to ", directvolume.MinIOPS),
		fmt.Sprintf("`katadirect.io/bytesPerSecond` | %d to ", directvolume.MinBytesPerSecond),
		fmt.Sprintf("`katadirect.io/burstSeconds` | 1 to %d", directvolume.MaxBurstSeconds),
	} {
		if !strings.Contains(section, bounds) {
			t.Errorf("the page does not have %s", bounds)
		}
	}
}
