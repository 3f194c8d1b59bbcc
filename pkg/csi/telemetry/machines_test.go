package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

type fixedMachines []Machine

func (m fixedMachines) Machines(context.Context) ([]Machine, error) { return m, nil }

type noMachines struct{}

func (noMachines) Machines(context.Context) ([]Machine, error) {
	return nil, errors.New("the records are on fire")
}

// machine is one that answers so; an error if the text is empty.
func machine(id, text string) Machine {
	return Machine{Sandbox: id, Namespace: "shop", Pod: "pod-" + id, Metrics: func(context.Context) ([]byte, error) {
		if text == "" {
			return nil, errors.New("it does not answer")
		}
		return []byte(text), nil
	}}
}

func scrape(t *testing.T, from MachineSource) (code int, text string) {
	t.Helper()
	server := httptest.NewServer(Machines(from, quiet))
	defer server.Close()
	return get(t, server.URL)
}

func TestMachinesAreToldApartByTheirSandboxes(t *testing.T) {
	code, text := scrape(t, fixedMachines{
		machine("a", "# TYPE katadirect_boot_seconds gauge\nkatadirect_boot_seconds 2\n"),
		machine("b", "# TYPE katadirect_boot_seconds gauge\nkatadirect_boot_seconds 3\nkata_guest_load{item=\"load1\"} 1\n"),
		machine("silent", ""),
		machine("nonsense", "katadirect_boot_seconds{ 3\n"),
	})
	if code != http.StatusOK {
		t.Fatalf("answered with %d: %s", code, text)
	}
	for _, want := range []string{
		`katadirect_boot_seconds{sandbox_id="a",cri_namespace="shop",cri_name="pod-a"} 2`,
		`katadirect_boot_seconds{sandbox_id="b",cri_namespace="shop",cri_name="pod-b"} 3`,
		`kata_guest_load{item="load1",sandbox_id="b",cri_namespace="shop",cri_name="pod-b"} 1`,
		`katadirect_machine_up{sandbox_id="a",cri_namespace="shop",cri_name="pod-a"} 1`,
		`katadirect_machine_up{sandbox_id="silent",cri_namespace="shop",cri_name="pod-silent"} 0`,
		`katadirect_machine_up{sandbox_id="nonsense",cri_namespace="shop",cri_name="pod-nonsense"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestAMachineCannotSpeakForOthersNorWithoutEnd(t *testing.T) {
	var endless strings.Builder
	for i := range 10 * maxMachineSamples {
		fmt.Fprintf(&endless, "kata_guest_x{n=\"%d\"} 1\n", i)
	}
	code, text := scrape(t, fixedMachines{
		machine("evil", "katadirect_csi_pool_short 1\nkatadirect_machine_up 5\nup 0\nkata_guest_y{sandbox_id=\"good\"} 1\nkata_guest_z 7\n"),
		machine("good", "# TYPE kata_guest_z counter\nkata_guest_z 8\n"),
		machine("endless", endless.String()),
	})
	if code != http.StatusOK || strings.Contains(text, "katadirect_csi_") || strings.Contains(text, "kata_guest_y") || strings.Contains(text, "\nup ") ||
		strings.Contains(text, "machine_up 5") {
		t.Errorf("answered with %d, and what is not theirs: %.2000s", code, text)
	}
	if n := strings.Count(text, "kata_guest_x{"); n == 0 || n > maxMachineSamples {
		t.Errorf("%d samples of one machine", n)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	if _, err := parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
		t.Errorf("what comes out cannot be read: %v", err)
	}
}

func TestAGuestThatLiesAboutATypeHidesOnlyItsOwnSamples(t *testing.T) {
	const honest = "# TYPE kata_guest_load gauge\nkata_guest_load 1\n"
	_, text := scrape(t, fixedMachines{
		machine("evil", "# TYPE kata_guest_load counter\nkata_guest_load 1\n"), machine("a", honest), machine("b", honest),
	})
	for id, want := range map[string]bool{"a": true, "b": true, "evil": false} {
		if got := strings.Contains(text, `kata_guest_load{sandbox_id="`+id+`"`); got != want {
			t.Errorf("a sample of machine %s is there: %t, want %t, in\n%s", id, got, want, text)
		}
	}
}

func TestNoMachinesAndNoAnswerAreDifferent(t *testing.T) {
	if code, text := scrape(t, fixedMachines{}); code != http.StatusOK || text != "" {
		t.Errorf("without machines: %d %q", code, text)
	}
	if code, text := scrape(t, noMachines{}); code != http.StatusServiceUnavailable || !strings.Contains(text, "on fire") {
		t.Errorf("%d %q", code, text)
	}
}

// FuzzMachines lets one machine say anything. It must not make the others' word be lost, nor speak for them.
func FuzzMachines(f *testing.F) {
	for _, text := range []string{
		"katadirect_boot_seconds 2\n", "# TYPE kata_x histogram\nkata_x_sum 1\n", "# TYPE kata_x summary\nkata_x{quantile=\"0.5\"} NaN\n",
		"kata_x{sandbox_id=\"b\"} 1\n", "katadirect_machine_up 0\n", "katadirect_csi_volumes 7\n", "kata_x{a=\"\\n\",b=\"\\\"\"} 1 99\n",
		"# HELP kata_x \\\\ a\n# TYPE kata_x counter\nkata_x 1\nkata_x 1\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		said := func(context.Context) ([]byte, error) { return []byte(text), nil }
		got, err := scrapeMachines(t.Context(), []Machine{
			{Sandbox: "a", Metrics: said}, machine("b", "# TYPE katadirect_honest gauge\nkatadirect_honest 3\n"),
		})
		if err != nil {
			t.Fatalf("one machine's %q fails the scrape: %v", text, err)
		}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(got))
		if err != nil {
			t.Fatalf("%q became what nobody can read: %v", text, err)
		}
		ofB := 0
		for name, family := range families {
			if strings.HasPrefix(name, "katadirect_csi_") {
				t.Errorf("a machine speaks for the driver: %s", name)
			}
			for _, m := range family.Metric {
				var sandboxes []string
				for _, l := range m.Label {
					if l.GetName() == "sandbox_id" {
						sandboxes = append(sandboxes, l.GetValue())
					}
				}
				if len(sandboxes) != 1 {
					t.Errorf("%s is of %q", name, sandboxes)
				} else if sandboxes[0] == "b" {
					ofB++
				}
			}
		}
		if most := 2; ofB > most || ofB == 0 || ofB < most && !strings.Contains(text, "katadirect_honest") {
			t.Errorf("%d samples of the honest machine:\n%s", ofB, got)
		}
	})
}
