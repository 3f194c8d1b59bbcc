package boot

import (
	"log/slog"
	"testing"
	"time"
)

func TestCommandLine(t *testing.T) {
	for _, tc := range []struct {
		cmdline string
		want    Params
	}{
		{"", Params{}},
		{"quiet panic=-1 console=hvc0\n", Params{}},
		{"agent.log=debug", Params{LogLevel: slog.LevelDebug}},
		{"agent.log=warn agent.log=critical", Params{LogLevel: slog.LevelError}},
		{"agent.log=loud", Params{}},
		{"agent.server_addr=vserial://katadirect.agent.0 agent.hotplug_timeout=7",
			Params{ServerAddr: "vserial://katadirect.agent.0", HotplugTimeout: 7 * time.Second}},
		{"agent.hotplug_timeout=0 agent.container_pipe_size=-1", Params{}},
		{"agent.hotplug_timeout=999999999999999999999", Params{}},
		{"agent.container_pipe_size=65536", Params{PipeSize: 65536}},
		{`dyndbg="file x +p" agent.server_addr="vsock://-1:1024"`, Params{ServerAddr: "vsock://-1:1024"}},
		{"xagent.log=debug agent.logs=debug agent.log", Params{}},
	} {
		if got := ParseCmdline(tc.cmdline); got != tc.want {
			t.Errorf("%q: %+v, want %+v", tc.cmdline, got, tc.want)
		}
	}
}

func FuzzParseCmdline(f *testing.F) {
	f.Add("agent.log=debug agent.hotplug_timeout=3")
	f.Add(`"a b"="c`)
	f.Fuzz(func(t *testing.T, cmdline string) {
		p := ParseCmdline(cmdline)
		if p.HotplugTimeout < 0 || p.PipeSize < 0 {
			t.Errorf("%q: %+v", cmdline, p)
		}
		// A word of ours at the end counts, whatever stands before it and
		// leaves no quotation open.
		closed := cmdline + ` agent.server_addr=here`
		if p := ParseCmdline(closed); p.ServerAddr != "here" && countQuotes(cmdline)%2 == 0 {
			t.Errorf("%q: %+v", closed, p)
		}
	})
}

func countQuotes(s string) (n int) {
	for _, r := range s {
		if r == '"' {
			n++
		}
	}
	return n
}
