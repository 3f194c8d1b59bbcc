package demo

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Names of the shim's metrics, in seconds.
const (
	metricBoot    = "katadirect_boot_seconds"
	metricHotplug = "katadirect_hotplug_seconds"
)

// shimFigures asks the shim how long the machine took to boot and the volume to plug, in milliseconds.
func (s *session) shimFigures(ctx context.Context) (bootMS, hotplugMS float64, err error) {
	text, err := s.node.Metrics(ctx, s.pod)
	if err != nil {
		return 0, 0, err
	}
	boot, err := metric(text, metricBoot)
	if err != nil {
		return 0, 0, err
	}
	hotplug, err := metric(text, metricHotplug)
	return 1000 * boot, 1000 * hotplug, err
}

// metric reads the value of a metric from Prometheus' text format, with whatever labels.
func metric(text []byte, name string) (float64, error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), " ")
		if base, _, _ := strings.Cut(key, "{"); ok && base == name {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("the shim has no metric %s", name)
}
