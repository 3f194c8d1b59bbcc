package task

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// optionsType ends the type URL of the options that name a configuration file: "runtimeoptions.v1.Options", or
// "cri.runtimeoptions.v1.Options" from a containerd of before 1.3.
const optionsType = "runtimeoptions.v1.Options"

// configPath returns the configuration file that the runtime's options in containerd's own configuration name, or
// "". Options meant for runc are left aside with one warning, as every container of the pod brings them: people copy them
// from runc's section, and a pod must not fail for it.
func (s *Service) configPath(options *anypb.Any) (string, error) {
	if options == nil || options.GetTypeUrl() == "" {
		return "", nil
	}
	if !strings.HasSuffix(options.GetTypeUrl(), optionsType) {
		s.warnOfOptions.Do(func() {
			s.log.Warn("ignoring runtime options that are not for this runtime; only ConfigPath is understood",
				"type", options.GetTypeUrl())
		})
		return "", nil
	}
	var o runtimeoptions.Options
	if err := proto.Unmarshal(options.GetValue(), &o); err != nil {
		return "", fmt.Errorf("%w: runtime options: %w", ErrInvalid, err)
	}
	if o.GetConfigPath() == "" && len(o.GetConfigBody()) > 0 {
		s.warnOfOptions.Do(func() {
			s.log.Warn("ignoring runtime options without a ConfigPath; put the settings into a file and name it")
		})
	}
	return o.GetConfigPath(), nil
}
