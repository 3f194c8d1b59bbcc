package postgresimage

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"
)

// The image is whole when its server can be asked, in nothing but the image, and finds its data again.
func TestTheServerRunsInTheImageAndKeepsItsData(t *testing.T) {
	image, err := Build(t.Context(), "", func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	unpack(t, image, root)
	c := container{t, root, image}
	serve := func(statement, want string) {
		end := c.start("-c", "port=15432")
		defer end()
		if got := c.query(statement); got != want {
			t.Errorf("%s gave %q, want %q", statement, got, want)
		}
	}
	serve("CREATE TABLE t AS SELECT now() AT TIME ZONE 'Europe/Berlin', 'ü' AS u; SELECT u FROM t", "ü")
	if err := os.Chmod(filepath.Join(root, "data/pgdata"), 0o770|os.ModeSetgid); err != nil { // as fsGroup does
		t.Fatal(err)
	}
	serve("SELECT count(*) FROM t", "1")
	if _, err := os.Stat(filepath.Join(root, "data/pgdata.new")); !os.IsNotExist(err) {
		t.Errorf("what was to become the database is left: %v", err)
	}
	if said, err := c.command("pgbench", "--version").CombinedOutput(); err != nil {
		t.Errorf("pgbench: %v: %s", err, said)
	}
}

// container runs programs in the image's files, as its user.
type container struct {
	t     *testing.T
	root  string
	image v1.Image
}

func (c container) command(args ...string) *exec.Cmd {
	c.t.Helper()
	config, err := c.image.ConfigFile()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(c.t.Context()), "chroot", append([]string{"--userspec=999:999", c.root}, args...)...)
	cmd.Env = config.Config.Env
	return cmd
}

// start starts the server; end stops it as Kubernetes would.
func (c container) start(args ...string) (end func()) {
	c.t.Helper()
	server := c.command(append([]string{"postgres-start"}, args...)...)
	log, err := os.Create(filepath.Join(c.t.TempDir(), "log"))
	if err != nil {
		c.t.Fatal(err)
	}
	server.Stdout, server.Stderr = log, log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		c.t.Fatal(err)
	}
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		said, err := c.command("pg_isready", "-p", "15432").CombinedOutput()
		if err == nil {
			break
		}
		if time.Since(begun) > 2*time.Minute {
			text, _ := os.ReadFile(log.Name())
			_ = server.Process.Kill()
			c.t.Fatalf("the server does not answer: %s\n%s", said, text)
		}
	}
	return func() {
		if err := errors.Join(server.Process.Signal(unix.SIGINT), server.Wait()); err != nil {
			c.t.Errorf("the server's end: %v", err)
		}
	}
}

func (c container) query(statement string) string {
	c.t.Helper()
	said, err := c.command("psql", "-p", "15432", "-U", "postgres", "-qtA", "-c", statement).CombinedOutput()
	if err != nil {
		c.t.Errorf("%s: %v: %s", statement, err, said)
	}
	return strings.TrimSpace(string(said))
}

// unpack writes the image's files, and the devices that every container has.
func unpack(t *testing.T, image v1.Image, root string) {
	t.Helper()
	archive := mutate.Extract(image)
	defer archive.Close()
	files := tar.NewReader(archive)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := unpackOne(filepath.Join(root, header.Name), header, files); err != nil {
			t.Fatal(err)
		}
	}
	// The test's folder is root's alone; the one in it is not.
	if err := errors.Join(os.Chmod(filepath.Dir(root), 0o755), os.Chmod(root, 0o755), os.MkdirAll(filepath.Join(root, "dev/shm"), 0o777),
		os.Chmod(filepath.Join(root, "dev/shm"), 0o777), unix.Mknod(filepath.Join(root, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(filepath.Join(root, "dev/urandom"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 9))),
		os.Chmod(filepath.Join(root, "dev/null"), 0o666), os.Chmod(filepath.Join(root, "dev/urandom"), 0o666)); err != nil {
		t.Fatal(err)
	}
}

func unpackOne(path string, header *tar.Header, content io.Reader) error {
	switch header.Typeflag {
	case tar.TypeDir:
		return errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, os.FileMode(header.Mode&0o777)), os.Chown(path, header.Uid, header.Gid))
	case tar.TypeSymlink:
		return os.Symlink(header.Linkname, path)
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, os.FileMode(header.Mode&0o777))
}
