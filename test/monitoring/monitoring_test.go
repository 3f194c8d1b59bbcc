package monitoring

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"sigs.k8s.io/yaml"

	"github.com/katadirect/katadirect/internal/condition"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/pkg/csi/telemetry"
)

const (
	root = "../.."
	dir  = root + "/deploy/monitoring"
	page = root + "/docs/monitoring.md"
)

// groups are a file of rules.
type groups struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

type rule struct {
	Record      string            `json:"record"`
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(raw, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	var file groups
	read(t, filepath.Join(dir, "rules.yaml"), &file)
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 20 {
		t.Fatalf("only %d rules were read", len(all))
	}
	return all
}

// dashboard is as much of Grafana's format as says what is asked.
type dashboard struct {
	Panels []struct {
		Title   string `json:"title"`
		Type    string `json:"type"`
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
}

// asked are all expressions, by where they stand.
func asked(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, r := range rules(t) {
		all["rule "+r.Record+r.Alert] = r.Expr
	}
	var board dashboard
	read(t, filepath.Join(dir, "dashboard.json"), &board)
	for _, p := range board.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		for i, target := range p.Targets {
			all["panel "+p.Title+" "+string(rune('A'+i))] = strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(target.Expr)
		}
	}
	return all
}

// expression is what hack/promql makes of one.
type expression struct {
	Error    string `json:"error"`
	Selected []struct {
		Metric   string `json:"metric"`
		Matchers []struct{ Label, Type, Value string }
	} `json:"selected"`
	Labels []string `json:"labels"`
}

// takeApart lets Prometheus' own parser read expressions.
func takeApart(t *testing.T, texts []string) (all []expression) {
	t.Helper()
	raw, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "run", "-C", root+"/hack/promql", "-mod=readonly", ".")
	cmd.Stdin = bytes.NewReader(raw)
	cmd.Stderr = os.Stderr
	answer, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(answer, &all); err != nil || len(all) != len(texts) {
		t.Fatalf("%d answers for %d expressions: %v", len(all), len(texts), err)
	}
	return all
}

// exposed are the labels of every metric that there is, from the document, beside those that every target has, and what
// Prometheus and its client add of their own.
func exposed(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(root + "/docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	target := []string{"instance", "job"}
	all := map[string][]string{
		"up": target, "process_resident_memory_bytes": target, "process_cpu_seconds_total": target, "go_goroutines": target,
	}
	row := regexp.MustCompile("(?m)^\\| `(kata(?:direct)?_\\w+)` \\| (\\w+) \\| ([^|]+) \\|")
	for _, found := range row.FindAllStringSubmatch(string(text), -1) {
		labels := slices.Clone(target)
		for _, l := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(found[3], -1) {
			labels = append(labels, l[1])
		}
		if found[2] == "histogram" {
			all[found[1]+"_bucket"] = append(slices.Clone(labels), "le")
			all[found[1]+"_sum"], all[found[1]+"_count"] = labels, labels
			continue
		}
		all[found[1]] = labels
	}
	if len(all) < 30 {
		t.Fatalf("only %d metrics are in the document", len(all))
	}
	return all
}

// values are all that a label can have, where that is known.
func values() map[string][]string {
	known := map[string][]string{
		"state": {"usable", "damaged", "readable", "unreadable", "live", "stale"},
		"job":   {"katadirect", "katadirect-machines"},
		"le":    {"2.5"},
		"reason": {condition.ReadOnly, condition.FileSystemErrors, condition.Unreadable, condition.DeviceGone,
			condition.IOErrors, condition.HostIOErrors, condition.ReportedByGuest},
	}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		known["code"] = append(known["code"], c.String())
	}
	for _, service := range []any{csi.Controller_ServiceDesc, csi.Node_ServiceDesc, csi.Identity_ServiceDesc, csi.GroupController_ServiceDesc} {
		methods := reflect.ValueOf(service).FieldByName("Methods")
		for i := range methods.Len() {
			known["method"] = append(known["method"], methods.Index(i).FieldByName("MethodName").String())
		}
	}
	return known
}

func TestRulesAndDashboardAskForWhatIsExposed(t *testing.T) {
	questions, metrics, known := asked(t), exposed(t), values()
	for _, r := range rules(t) {
		if r.Record != "" {
			metrics[r.Record] = []string{"instance", "volume", "persistentvolume", "method", "code"}
		}
	}
	var where, texts []string
	for place, text := range questions {
		where, texts = append(where, place), append(texts, text)
	}
	for i, e := range takeApart(t, texts) {
		if e.Error != "" {
			t.Errorf("%s: %s: %s", where[i], texts[i], e.Error)
		}
		if len(e.Selected) == 0 {
			t.Errorf("%s asks for no metric", where[i])
		}
		of := []string{}
		for _, s := range e.Selected {
			labels, there := metrics[s.Metric]
			if !there {
				t.Errorf("%s: there is no metric %s", where[i], s.Metric)
			}
			of = append(of, labels...)
			for _, m := range s.Matchers {
				if !slices.Contains(labels, m.Label) {
					t.Errorf("%s: %s has no label %s", where[i], s.Metric, m.Label)
				}
				checkValue(t, where[i], m.Label, m.Type, m.Value, known)
			}
		}
		for _, l := range e.Labels {
			if !slices.Contains(of, l) {
				t.Errorf("%s: none of its metrics has the label %s", where[i], l)
			}
		}
	}
}

// checkValue sees that a matcher matches something. A regular expression's alternatives have to match each for itself.
func checkValue(t *testing.T, where, label, kind, value string, known map[string][]string) {
	t.Helper()
	all, closed := known[label]
	if !closed {
		return
	}
	alternatives := []string{value}
	if strings.Contains(kind, "~") && !strings.Contains(value, "(") {
		alternatives = strings.Split(value, "|")
	}
	for _, one := range alternatives {
		if !strings.Contains(kind, "~") {
			one = regexp.QuoteMeta(one)
		}
		pattern := regexp.MustCompile("^(?:" + one + ")$")
		if !slices.ContainsFunc(all, pattern.MatchString) {
			t.Errorf("%s: %s is never %q", where, label, one)
		}
	}
}

// What the check itself would let through is worth nothing.
func TestTheParserFindsWhatIsAsked(t *testing.T) {
	found := takeApart(t, []string{`sum by (a) (rate(m{b="c",d=~"e|f"}[5m])) / on (g) group_left (h) n`, `m{`})
	if found[1].Error == "" || len(found[0].Selected) != 2 || found[0].Selected[0].Metric != "m" || len(found[0].Selected[0].Matchers) != 2 ||
		!slices.Equal(found[0].Labels, []string{"a", "g", "h"}) {
		t.Errorf("%+v", found)
	}
}

func TestEveryAlertSaysWhatToDo(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	sections := regexp.MustCompile(`(?m)^### (Katadirect\w+)$`).FindAllStringSubmatch(string(text), -1)
	var documented []string
	for _, s := range sections {
		documented = append(documented, s[1])
	}
	var alerts []string
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		alerts = append(alerts, r.Alert)
		if !slices.Contains(documented, r.Alert) {
			t.Errorf("%s has no section in docs/monitoring.md", r.Alert)
		}
		if want := "https://github.com/katadirect/katadirect/blob/main/docs/monitoring.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s: its runbook is at %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
			t.Errorf("%s has no summary, no description or no severity: %+v", r.Alert, r)
		}
	}
	for _, name := range documented {
		if !slices.Contains(alerts, name) {
			t.Errorf("docs/monitoring.md has a section for %s, which does not exist", name)
		}
	}
	tests, err := os.ReadFile(filepath.Join(dir, "rules_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range alerts {
		if !strings.Contains(string(tests), name) {
			t.Errorf("rules_test.yaml never lets %s fire", name)
		}
	}
}

func TestTheOperatorsRulesAreTheSame(t *testing.T) {
	var plain map[string]any
	var object struct {
		Spec map[string]any `json:"spec"`
	}
	read(t, filepath.Join(dir, "rules.yaml"), &plain)
	read(t, filepath.Join(dir, "prometheusrule.yaml"), &object)
	if !reflect.DeepEqual(plain, object.Spec) {
		t.Error("prometheusrule.yaml and rules.yaml differ")
	}
}

func TestAlertsFireWhenTheyShould(t *testing.T) {
	promtool := filepath.Join(lab.DefaultCache(), "prometheus", "debian", "usr", "bin", "promtool")
	if _, err := os.Stat(promtool); err != nil {
		t.Fatalf("%v: run \"make prometheus\" first", err)
	}
	for _, args := range [][]string{
		{"check", "rules", "rules.yaml"}, {"test", "rules", "rules_test.yaml"},
	} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = dir
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, said)
		}
	}
}

// Debian's Prometheus is built without Kubernetes' discovery, so that nobody but this compares who is scraped with who is there.
func TestScrapingFindsTheDrivers(t *testing.T) {
	var daemonSet struct {
		Spec struct {
			Template struct {
				Metadata struct {
					Labels map[string]string `json:"labels"`
				} `json:"metadata"`
			} `json:"template"`
		} `json:"spec"`
	}
	read(t, root+"/deploy/kustomize/base/node.yaml", &daemonSet)
	labels := daemonSet.Spec.Template.Metadata.Labels
	var monitor struct {
		Spec struct {
			Selector struct {
				MatchLabels map[string]string `json:"matchLabels"`
			} `json:"selector"`
			Endpoints []struct {
				Port, Path string
				Relabels   []struct{ TargetLabel, Replacement string } `json:"relabelings"`
			} `json:"podMetricsEndpoints"`
		} `json:"spec"`
	}
	raw, err := os.ReadFile(root + "/deploy/kustomize/components/monitoring/podmonitors.yaml")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(raw), "\n---\n")
	if err := yaml.Unmarshal([]byte(first), &monitor); err != nil {
		t.Fatal(err)
	}
	jobs := map[string]string{}
	for _, e := range monitor.Spec.Endpoints {
		for _, r := range e.Relabels {
			if r.TargetLabel == "job" && e.Port == "http" {
				jobs[r.Replacement] = e.Path
			}
		}
	}
	if path, there := jobs["katadirect"]; !there || path != "" || jobs["katadirect-machines"] != telemetry.MachinesPath || len(monitor.Spec.Selector.MatchLabels) == 0 {
		t.Errorf("the PodMonitor scrapes %v of %v", jobs, monitor.Spec.Selector)
	}
	for key, value := range monitor.Spec.Selector.MatchLabels {
		if labels[key] != value {
			t.Errorf("the PodMonitor wants %s=%s, the driver has %q", key, value, labels[key])
		}
	}
	var plain struct {
		Configs []struct {
			Job      string `json:"job_name"`
			Relabels []struct {
				Sources []string `json:"source_labels"`
				Regex   string   `json:"regex"`
				Action  string   `json:"action"`
			} `json:"relabel_configs"`
		} `json:"scrape_configs"`
	}
	read(t, filepath.Join(dir, "scrape.yaml"), &plain)
	if len(plain.Configs) != 2 || plain.Configs[0].Job != "katadirect" || plain.Configs[1].Job != "katadirect-machines" {
		t.Fatalf("the jobs are %+v", plain.Configs)
	}
	for _, config := range plain.Configs {
		kept := config.Relabels[0]
		if want := labels["app.kubernetes.io/name"] + ";" + labels["app.kubernetes.io/component"]; kept.Action != "keep" || kept.Regex != want {
			t.Errorf("pods are kept by %+v, and the drivers are %s", kept, want)
		}
	}
}
