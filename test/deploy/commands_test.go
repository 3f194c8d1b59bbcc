package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	helmCommand = regexp.MustCompile("helm (?:install|upgrade) katadirect [^\n`]*")
	setFlag     = regexp.MustCompile(`--set (\S+)`)
)

// What people copy is words of a command line, in which helm takes a number for a number and not for a tag.
func TestTheChartTakesWhatTheDocsSet(t *testing.T) {
	for file, fewest := range map[string]int{"README.md": 1, "docs/deploy.md": 3, "docs/node-install.md": 2} {
		text, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		commands := helmCommand.FindAllString(strings.ReplaceAll(string(text), "\\\n", ""), -1)
		set := 0
		for _, command := range commands {
			args := []string{"template", "release", chart, "--namespace", namespace, "--kube-version", "v1.34.0"}
			for _, flag := range setFlag.FindAllStringSubmatch(command, -1) {
				args = append(args, "--set", flag[1])
				set++
			}
			if said, err := exec.CommandContext(t.Context(), program(t, "helm/v*/helm", "helm"), args...).CombinedOutput(); err != nil {
				t.Errorf("%s: %s\n%v\n%s", file, command, err, said)
			}
		}
		if set < fewest {
			t.Errorf("%s has %d of helm's commands with values: %q", file, set, commands)
		}
	}
}
