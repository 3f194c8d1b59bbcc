package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/katadirect/katadirect/internal/lab"
)

// prometheus is Debian's, which scrapes the driver through the API server's proxy to the driver's pod.
type prometheus struct {
	t   *testing.T
	url string
}

// startPrometheus ends it with the test.
func (k *kube) startPrometheus() prometheus {
	k.t.Helper()
	program := filepath.Join(lab.DefaultCache(), "prometheus", "debian", "usr", "bin", "prometheus")
	if _, err := os.Stat(program); err != nil {
		k.t.Fatalf("%v: run \"make prometheus\" first", err)
	}
	dir := k.t.TempDir()
	k.writePrometheusConfig(dir)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		k.t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "--config.file="+dir+"/prometheus.yml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+address)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		late.Stop()
		if k.t.Failed() {
			said, _ := os.ReadFile(dir + "/log")
			k.t.Logf("Prometheus' last words:\n%s", said[max(0, len(said)-4000):])
		}
	})
	return prometheus{k.t, "http://" + address}
}

// pause is how long an alert's condition has to hold. promtool tests the real times (test/monitoring).
var pause = regexp.MustCompile(`(?m)^( +)for: \w+$`)

// writePrometheusConfig has the job's name and the labels of deploy/monitoring/scrape.yaml; Debian's Prometheus is built
// without the discovery that finds pods by itself.
func (k *kube) writePrometheusConfig(dir string) {
	k.t.Helper()
	rules, err := os.ReadFile(module + "/deploy/monitoring/rules.yaml")
	if err != nil {
		k.t.Fatal(err)
	}
	api, err := clientcmd.BuildConfigFromFlags("", k.Kubeconfig())
	if err != nil {
		k.t.Fatal(err)
	}
	server, err := url.Parse(api.Host)
	if err != nil {
		k.t.Fatal(err)
	}
	config := "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yaml]\nscrape_configs:\n"
	for job, path := range map[string]string{"katadirect": "metrics", "katadirect-machines": "metrics/machines"} {
		config += fmt.Sprintf(`
- job_name: %s
  scheme: https
  metrics_path: /api/v1/namespaces/%s/pods/%s:9809/proxy/%s
  authorization: {credentials: %q}
  tls_config: {ca_file: ca.crt, server_name: %q}
  static_configs: [{targets: [%q], labels: {instance: node}}]
`, job, driverNamespace, k.driverPod(), path, api.BearerToken, api.ServerName, server.Host)
	}
	for name, content := range map[string][]byte{
		"prometheus.yml": []byte(config), "rules.yaml": pause.ReplaceAll(rules, []byte("${1}for: 2s")), "ca.crt": api.CAData,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			k.t.Fatal(err)
		}
	}
}

// query returns the samples of an instant query: its labels, and the value.
func (p prometheus) query(expr string) (samples []map[string]string, err error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s: %s", expr, answer.Error)
	}
	for _, r := range answer.Data.Result {
		if r.Metric == nil {
			r.Metric = map[string]string{}
		}
		r.Metric["value"] = fmt.Sprint(r.Value[1])
		samples = append(samples, r.Metric)
	}
	return samples, nil
}

// prometheusSeesTheDriver lets Debian's Prometheus scrape the driver with the rules and the dashboard of deploy/monitoring.
func prometheusSeesTheDriver(t *testing.T, k *kube) {
	p := k.startPrometheus()
	kubectl := k.plugin()
	k.step("Prometheus scrapes the driver, and no alert about it fires")
	k.until("a scrape", func() (string, bool) {
		up, err := p.query(`up{job="katadirect"}`)
		return fmt.Sprint(up, err), len(up) == 1 && up[0]["value"] == "1"
	})

	k.step("a volume that is filled, snapshotted, grown beyond the pool, and whose file system has an error")
	k.kubectl("label", "namespace", k.ns, "pod-security.kubernetes.io/enforce=privileged")
	privileged := strings.Replace(machinePod("watched", "watched"), "    image:", "    securityContext: {privileged: true}\n    image:", 1)
	k.apply(claim("watched", "64Mi", "ReadWriteOncePod") + privileged)
	k.ready("watched")
	k.apply(snapshotOf("watched", "watched"))
	k.untilField("volumesnapshot/watched", "{.status.readyToUse}", "true")
	k.grow("watched", "100Ti")
	k.exec("watched", "dd if=/dev/zero of=/data/file bs=1M 2>/dev/null; sync; df /data >&2")
	k.exec("watched", `disk=$(awk '$2=="/data"{print $1}' /proc/mounts); echo test > /sys/fs/ext4/${disk#/dev/}/trigger_fs_error`)

	pv := k.field("pvc/watched", "{.spec.volumeName}")
	for alert, labels := range map[string]string{
		"KatadirectVolumeNearlyFull": "", "KatadirectVolumeFull": "", "KatadirectVolumeErrors": `, reason="FileSystemErrors"`,
	} {
		k.step("the alert " + alert + " fires")
		k.until(alert, func() (string, bool) {
			_, _, _ = kubectl.try("describe", "watched") // the guest is asked by it; kubelet would, too, once in a minute
			firing, err := p.query(fmt.Sprintf(`ALERTS{alertname=%q, alertstate="firing", persistentvolume=%q%s}`, alert, pv, labels))
			return fmt.Sprint(firing, err), len(firing) == 1
		})
	}
	k.until("that nothing else fires", func() (string, bool) { // a scrape may have been late: it has a second here
		down, err := p.query(`ALERTS{alertstate="firing", alertname=~"KatadirectDriver(Down|Absent)|KatadirectStateUnreadable|KatadirectVolumesUnreported"}`)
		return fmt.Sprint(down, err), err == nil && len(down) == 0
	})
	k.everyPanelHasData(p)
}

// everyPanelHasData evaluates what each panel of the dashboard asks for.
func (k *kube) everyPanelHasData(p prometheus) {
	k.step("every panel of the dashboard has data")
	raw, err := os.ReadFile(module + "/deploy/monitoring/dashboard.json")
	if err != nil {
		k.t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		k.t.Fatal(err)
	}
	asked := 0
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			asked++
			expr := strings.NewReplacer("$__rate_interval", "5m", "$instance", "node").Replace(target.Expr)
			k.until("data for the panel "+panel.Title, func() (string, bool) {
				samples, err := p.query(expr)
				return fmt.Sprint(expr, samples, err), err == nil && len(samples) > 0
			})
		}
	}
	if asked < 30 {
		k.t.Errorf("only %d questions were asked", asked)
	}
}
