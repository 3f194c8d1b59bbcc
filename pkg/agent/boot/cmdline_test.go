package boot

import (
	"log/slog"
	"testing"
	"time"
)

func TestCmdlineSettings(t *testing.T) {
	nothing := Params{LogLevel: slog.LevelInfo}
	for _, tc := range []struct {
		name, cmdline string
		want          Params
	}{
		{"nothing said", "quiet panic=-1\n", nothing},
		{"all of them", "quiet agent.log=debug agent.server_addr=vsock://-1:1024 agent.hotplug_timeout=7 agent.container_pipe_size=1048576",
			Params{slog.LevelDebug, "vsock://-1:1024", 7 * time.Second, 1 << 20}},
		{"the last counts", "agent.log=debug agent.log=error", Params{LogLevel: slog.LevelError}},
		{"zero and nonsense are left alone", "agent.hotplug_timeout=0 agent.container_pipe_size=-1 agent.log=loud agent.hotplug_timeout=9999999999999999999", nothing},
		{"quotes keep blanks together", `dyndbg="file x +p agent.log=debug" agent.server_addr="vserial://a"`,
			Params{LogLevel: slog.LevelInfo, ServerAddr: "vserial://a"}},
		{"a longer name is another setting", "agent.logs=debug xagent.log=debug", nothing},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := ParseCmdline(tc.cmdline); got != tc.want {
				t.Errorf("%q gives %+v, want %+v", tc.cmdline, got, tc.want)
			}
		})
	}
}

// Whatever the command line is, the machine boots with settings that make sense.
func FuzzCmdline(f *testing.F) {
	f.Add(`quiet agent.log=debug agent.hotplug_timeout="3" agent.container_pipe_size=1`)
	f.Add(`"agent.log=`)
	f.Fuzz(func(t *testing.T, cmdline string) {
		if p := ParseCmdline(cmdline); p.HotplugTimeout < 0 || p.PipeSize < 0 {
			t.Errorf("%q gives %+v", cmdline, p)
		}
	})
}
