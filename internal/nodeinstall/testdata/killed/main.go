// Command killed is an installer that kills itself at its n-th step: killed install|uninstall N OPTIONS, the last as JSON.
// It says where that was. The crash test runs it hundreds of times, so it is built without the race detector.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/katadirect/katadirect/internal/nodeinstall"
)

type options struct{ Host, Bin, Guest, Counter string }

// request counts up a file, by which the test's stand-in sees that it is to restart.
type request string

func (r request) String() string { return "a request" }

func (r request) Restart(context.Context) error {
	text, _ := os.ReadFile(string(r))
	n, _ := strconv.Atoi(string(text))
	return os.WriteFile(string(r), []byte(strconv.Itoa(n+1)), 0o644)
}

func main() {
	var o options
	if err := json.Unmarshal([]byte(os.Args[3]), &o); err != nil {
		panic(err)
	}
	at, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	step := 0
	what := nodeinstall.Options{
		HostRoot: o.Host, BinDir: o.Bin, GuestDir: o.Guest, Version: "v1", ProcDir: "/proc", WaitTimeout: time.Minute,
		Restart: request(filepath.Join(o.Host, o.Counter)),
		Step: func(what string) {
			if step == at {
				fmt.Println(what)
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // not a step further
			}
			step++
		},
	}
	work := nodeinstall.Install
	if os.Args[1] == "uninstall" {
		work = nodeinstall.Uninstall
	}
	if _, err := work(context.Background(), what); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
