package container

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestASealedProgramRunsAndNobodyCanWriteToIt(t *testing.T) {
	path, err := Seal("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Stdin = strings.NewReader("through it")
	if out, err := cmd.Output(); err != nil || string(out) != "through it" {
		t.Errorf("it printed %q, %v", out, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		defer f.Close()
		_, err = f.WriteAt([]byte("x"), 0)
	}
	if err == nil {
		t.Error("a sealed program was written to")
	}
	if err := os.Truncate(path, 0); err == nil {
		t.Error("a sealed program was made shorter")
	}
	if _, err := Seal("/no/such/program"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a program that is not there: %v", err)
	}
}
