package shimv2

import (
	"bufio"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
)

func makeFIFO(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheLogLooksLikeContainerds(t *testing.T) {
	t.Parallel()
	path := makeFIFO(t)
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	newLogger(openLog(path), slog.LevelInfo).Warn("something is odd", "container", "c1")
	line, err := bufio.NewReader(reader).ReadString('\n')
	want := regexp.MustCompile(`^time=\d{4}-\d\d-\d\dT\S+ level=warning msg="something is odd" container=c1\n$`)
	if err != nil || !want.MatchString(line) {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestALogThatNobodyReadsHoldsUpNobodyAndTheLossIsTold(t *testing.T) {
	t.Parallel()
	path := makeFIFO(t)
	w := openLog(path)
	log := newLogger(w, slog.LevelInfo)
	for range 10_000 { // far more than a pipe holds
		log.Info("a line of some length, so that the pipe is full soon")
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	lines := bufio.NewScanner(reader)
	lines.Scan()
	buffered := make([]byte, 1<<20)
	if _, err := reader.Read(buffered); err != nil { // make room
		t.Fatal(err)
	}
	log.Info("now there is room")
	if !lines.Scan() {
		t.Fatal(lines.Err())
	}
	unix.Close(w.fd) // the end of the log, for the reader
	found := strings.Contains(lines.Text(), "dropped")
	for lines.Scan() {
		found = found || strings.Contains(lines.Text(), "log lines were dropped")
	}
	if !found {
		t.Error("the dropped lines are not mentioned")
	}
}

func TestALogWithoutAFifoIsNoError(t *testing.T) {
	t.Parallel()
	newLogger(openLog(filepath.Join(t.TempDir(), "nowhere")), slog.LevelInfo).Info("heard by nobody")
}

func TestACrashOfTheDaemonIsInContainerdsLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start("c1", "")
	reader, err := os.OpenFile(filepath.Join(d.bundle, logFIFO), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	_, err = d.client.Checkpoint(r.Context(), &taskapi.CheckpointTaskRequest{})
	if err == nil {
		t.Fatal("the shim did not crash")
	}
	r.awaitEnd(d.pid)
	var seen []string
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		seen = append(seen, lines.Text())
	}
	if text := strings.Join(seen, "\n"); !strings.Contains(text, "shim started") || !strings.Contains(text, "panic: crashed on request") {
		t.Errorf("containerd's log would have\n%s", text)
	}
}
