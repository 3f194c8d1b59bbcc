package task

import (
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestTheConfigurationFileNamedInTheRuntimesOptionsIsUsed(t *testing.T) {
	t.Parallel()
	value, err := proto.Marshal(&runtimeoptions.Options{TypeUrl: "x", ConfigPath: "/etc/mine.toml"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := proto.Marshal(&runtimeoptions.Options{ConfigBody: []byte("a = 1")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		options *anypb.Any
		want    string
		warning string
	}{
		{name: "none"},
		{name: "containerd's", options: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: value}, want: "/etc/mine.toml"},
		{name: "an old containerd's", options: &anypb.Any{TypeUrl: "cri.runtimeoptions.v1.Options", Value: value}, want: "/etc/mine.toml"},
		{name: "runc's", options: &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{1, 2, 3}}, warning: "containerd.runc.v1.Options"},
		{name: "without a path", options: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: body}, warning: "ConfigPath"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, hooks{})
			r.create(spec{id: "pod", args: forever(), annotations: asPod(), options: c.options})
			r.create(spec{id: "c1", args: forever(), annotations: inPod("pod"), options: c.options})
			wantEqual(t, "configuration file", r.booted[0].ConfigPath, c.want)
			warnings := strings.Count(r.log.String(), "level=WARN")
			if c.warning == "" && warnings > 0 || c.warning != "" && (warnings != 1 || !strings.Contains(r.log.String(), c.warning)) {
				t.Errorf("want one warning of %q in the log, or none:\n%s", c.warning, r.log)
			}
		})
	}
}

func TestOptionsThatCannotBeReadFailTheCreate(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	_, err := r.client.Create(r.ctx, r.request(spec{
		id: "c1", args: forever(), options: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte("not protobuf")},
	}))
	wantCode(t, err, codes.InvalidArgument)
}
