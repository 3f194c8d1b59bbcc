package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// program writes a script that is started as /bin/sh starts one, and returns its URI with the query.
func program(t *testing.T, script, query string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return "binary://" + path + "?" + query
}

// taker keeps what it is told and given in the folder that is its second argument.
const taker = `cd "$2"; echo "$CONTAINER_ID $CONTAINER_NAMESPACE $*" >told; env >env
cat <&3 >stdout 5>&- & cat <&4 >stderr 5>&- & exec 5>&- 3<&- 4<&-; wait; echo all >ended`

func TestAProgramTakesTheOutputAsWithContainerdsOwnShims(t *testing.T) {
	t.Parallel()
	want := noise(8 << 20)
	file, dir := inFile(t, want), t.TempDir()
	uri := program(t, taker, "dir="+url.QueryEscape(dir)+"&-x&z=%26+1&a=2")
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: sh(fmt.Sprintf("cat %s; tail -c 1000 %s >&2; exit 6", file, file)), io: StdioConfig{Stdout: uri, Stderr: uri}})
	wantEqual(t, "exit status", r.wait("c1", ""), 6)
	if _, err := r.delete("c1", ""); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		return data
	}
	wantBytes(t, "stdout", read("stdout"), want)
	wantBytes(t, "stderr", read("stderr"), want[len(want)-1000:])
	wantEqual(t, "what the program was told", string(read("told")), "c1 moby dir "+dir+" -x z & 1 a 2\n")
	wantEqual(t, "the program's end, which the delete waits for", string(read("ended")), "all\n")
	if strings.Contains(string(read("env")), "HOME=") {
		t.Error("the program has the shim's environment")
	}
}

func TestAnExecsProgramIsToldOfTheExecAndATerminalHasNoStderr(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	r.exec("c1", "e1", sh("echo out; exit 3"), StdioConfig{Stdout: program(t, taker, "dir="+dir), Terminal: true})
	r.start("c1", "e1")
	wantEqual(t, "exit status", r.wait("c1", "e1"), 3)
	if _, err := r.delete("c1", "e1"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"told": "e1 moby dir " + dir + "\n", "stdout": "out\n", "stderr": ""} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestAProgramThatIsGoneHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	uri := program(t, "exit 9", "")
	r.run(spec{id: "c1", args: sh("head -c 1000000 /dev/zero; exit 7"), io: StdioConfig{Stdout: uri, Stderr: uri}})
	wantEqual(t, "exit status", r.wait("c1", ""), 7)
	if _, err := r.delete("c1", ""); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"exit status 9", "thrown away"} {
		if !strings.Contains(r.log.String(), word) {
			t.Errorf("the log does not say %q", word)
		}
	}
}

func TestAProgramThatIsNotReadyFailsTheCreation(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	_, err := r.client.Create(r.ctx, r.request(spec{id: "c1", args: forever(), io: StdioConfig{Stdout: "binary:///none/such?a=b"}}))
	if err == nil || !strings.Contains(err.Error(), "/none/such") {
		t.Errorf("one that is not there: %v", err)
	}
	_, err = r.client.Create(r.ctx, r.request(spec{id: "c1", args: forever(), io: StdioConfig{Stderr: "binary:///none/such"}}))
	wantCode(t, err, codes.Unimplemented)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var log bytes.Buffer
	uri, _ := asProgram(program(t, "exec sleep 1000", ""))
	p, _, _, err := startLogProgram(ctx, uri, StdioConfig{}, slog.New(slog.NewTextHandler(&log, nil)))
	if p != nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), uri.Path) {
		t.Errorf("one that never is: %v", err)
	}
}
