package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shell are the pages' blocks of commands, of which one goes from nothing to a resized volume.
var shell = regexp.MustCompile("(?s)```sh\n(.*?)```")

// fromNothing are the commands of the block of a page that begins with pushing the image, without their comments.
func fromNothing(t *testing.T, file string) (commands []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", file))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range shell.FindAllStringSubmatch(string(text), -1) {
		if !strings.HasPrefix(block[1], "make push-image") {
			continue
		}
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", "")) {
			command, _, _ := strings.Cut(line, " #")
			commands = append(commands, strings.Join(strings.Fields(command), " "))
		}
	}
	return commands
}

func TestFromNothingToAResizedVolumeIsNineCommands(t *testing.T) {
	commands := fromNothing(t, "README.md")
	if len(commands) != 9 {
		t.Errorf("there are %d: %q", len(commands), commands)
	}
	if diff := cmp.Diff(commands, fromNothing(t, "docs/deploy.md")); diff != "" {
		t.Errorf("the pages differ (-README +deploy):\n%s", diff)
	}
	for _, command := range commands {
		for _, applied := range applyFlag.FindAllStringSubmatch(command, -1) {
			if _, err := os.Stat(filepath.Join("..", "..", applied[1])); err != nil {
				t.Errorf("%s: %v", command, err)
			}
		}
	}
	if !slices.Contains(commands, "kubectl apply -f deploy/kustomize/base/namespace.yaml") {
		t.Error("nobody makes a namespace that admits the driver")
	}
}

var (
	applyFlag   = regexp.MustCompile(`apply -f (\S+)`)
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
