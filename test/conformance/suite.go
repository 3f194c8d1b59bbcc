package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// selection is what the suite calls the specs that a node must pass.
const selection = `\[NodeConformance\]`

// suite is Kubernetes' suite with a place for what it writes.
type suite struct {
	programs   string // folder of e2e.test and ginkgo
	kubeconfig string
	dir        string // the output's
}

// names lists the specs of the selection, without running any.
func (s suite) names(ctx context.Context) ([]string, error) {
	// It reads the file, and then connects to nothing.
	s.kubeconfig = filepath.Join(s.dir, "no-cluster")
	if err := os.WriteFile(s.kubeconfig, []byte("apiVersion: v1\nkind: Config\n"), 0o644); err != nil {
		return nil, err
	}
	args := append([]string{"--ginkgo.dry-run", "--ginkgo.no-color", "--ginkgo.focus=" + selection}, s.flags()...)
	cmd := exec.CommandContext(ctx, filepath.Join(s.programs, "e2e.test"), args...)
	cmd.Dir, cmd.Env = s.dir, s.environment()
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("list the suite's specs: %w: %s", err, tail(said))
	}
	results, err := s.results()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range results {
		names = append(names, r.Name)
	}
	return names, nil
}

// flags are those of the suite itself.
func (s suite) flags() []string {
	return []string{"--provider=local", "--kubeconfig=" + s.kubeconfig, "--num-nodes=1", "--dump-logs-on-failure=false",
		"--report-dir=" + s.dir}
}

// environment makes the suite leave its temporary files, which it never removes, where everything else goes.
func (s suite) environment() []string { return append(os.Environ(), "TMPDIR="+s.dir) }

// run runs the specs with these names, all of the selection if there are none, several at a time.
func (s suite) run(ctx context.Context, procs int, names ...string) ([]result, error) {
	log, err := os.Create(s.log())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append([]string{
		"run", "--no-color", "--procs=" + strconv.Itoa(procs), "--focus=" + focus(names), "--timeout=24h",
		filepath.Join(s.programs, "e2e.test"), "--",
	}, s.flags()...)
	if len(names) > 0 {
		// A spec of the core may have a second try: some give a pod seconds that an emulated machine on a busy host needs itself.
		args = slices.Insert(args, 1, "--flake-attempts=2")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.programs, "ginkgo"), args...)
	cmd.Dir, cmd.Env = s.dir, s.environment()
	cmd.Stdout, cmd.Stderr = log, log
	// An interrupt lets the suite remove what it has made.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	runErr := cmd.Run() // also of a spec that fails, which is for the caller to judge
	results, err := s.results()
	if err != nil {
		said, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("run the suite: %w: %s", errors.Join(runErr, err), tail(said))
	}
	return results, ctx.Err()
}

// log is what ginkgo says.
func (s suite) log() string { return filepath.Join(s.dir, "suite.log") }

// retried are the names of specs that passed at the second try.
func (s suite) retried() (names []string) {
	said, _ := os.ReadFile(s.log())
	for _, m := range flaked.FindAllSubmatch(said, -1) {
		names = append(names, string(m[1]))
	}
	return names
}

var flaked = regexp.MustCompile(`\[FLAKEY TEST - TOOK \d+ ATTEMPTS TO PASS\].*\n(.*)`)

// focus is the expression that selects the specs with these names.
func focus(names []string) string {
	if len(names) == 0 {
		return selection
	}
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	return strings.Join(quoted, "|")
}

func (s suite) results() ([]result, error) {
	f, err := os.Open(filepath.Join(s.dir, "junit_01.xml"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseReport(f)
}

func tail(said []byte) string {
	const enough = 3000
	return string(said[max(0, len(said)-enough):])
}
