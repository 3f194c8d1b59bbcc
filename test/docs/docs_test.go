// Package docs holds what the documents say of the tests to the tests.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

var (
	named    = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	declared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
)

// tests are the names of all tests and fuzz targets, and of what the documents call so.
func tests(t *testing.T) (there, mentioned map[string]string) {
	t.Helper()
	there, mentioned = map[string]string{}, map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", "out", "bin", "testdata"}, entry.Name()) {
			return fs.SkipDir
		}
		find, into := declared, there
		switch {
		case strings.HasSuffix(path, ".md"):
			find, into = named, mentioned
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for _, found := range find.FindAllSubmatch(text, -1) {
			into[string(found[1])] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return there, mentioned
}

func TestTestsThatDocumentsNameAreThere(t *testing.T) {
	there, mentioned := tests(t)
	if len(mentioned) < 20 {
		t.Errorf("only %d tests are named: the search does not find them any more", len(mentioned))
	}
	for name, document := range mentioned {
		if there[name] == "" {
			t.Errorf("%s names %s, which is no test", document, name)
		}
	}
}

func TestEveryFaultSeenElsewhereIsInTheTable(t *testing.T) {
	there, mentioned := tests(t)
	for name, file := range there {
		if strings.HasPrefix(name, "TestFault") && mentioned[name] == "" {
			t.Errorf("%s in %s is in no document", name, file)
		}
	}
}
