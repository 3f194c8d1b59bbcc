// Package postgresimage makes an image of PostgreSQL from Debian's packages, for the example of a real database in
// deploy/examples and the tests that put one to work. deploy/image is the program.
//
// A container of it makes the database in $PGDATA, below /data, when there is none, and becomes the server. It runs as
// the user postgres (999), wants a volume at /data and folders that it may write at /tmp and /run/postgresql, and reads
// the password of the role postgres from the file that $POSTGRES_PASSWORD_FILE names.
package postgresimage

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os/exec"
	"regexp"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/katadirect/katadirect/internal/driverimage"
	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/image"
)

// Name is the image's name in deploy/examples.
const Name = "registry.example.org/katadirect/example-postgresql:dev"

// user is postgres' id. Debian gives it the next that is free; this is what most images have.
const user = 999

//go:embed start.sh
var start string

// Build makes the image of the Debian release's PostgreSQL. Packages are kept in cacheDir ("" is
// guestimage.DefaultCacheDir).
func Build(ctx context.Context, cacheDir string, progress func(string)) (v1.Image, error) {
	version, err := debianVersion(ctx)
	if err != nil {
		return nil, err
	}
	found, _, err := guestimage.RootFS(ctx, cacheDir, progress, takes(version)...)
	if err != nil {
		return nil, fmt.Errorf("the image of PostgreSQL %s: %w", version, err)
	}
	bin := "/usr/lib/postgresql/" + version + "/bin"
	files := driverimage.FromRootFS(found)
	files.Add(image.Files{
		"bin/sh":                       image.Link("/bin/busybox"),
		"usr/local/bin/postgres-start": image.Program([]byte(start)),
		"etc/passwd":                   image.Text(fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\npostgres:x:%d:%d::/data:/bin/sh\n", user, user)),
		"etc/group":                    image.Text(fmt.Sprintf("root:x:0:\npostgres:x:%d:\n", user)),
		"var/run":                      image.Link("../run"),
		"run/postgresql":               {Dir: true, Mode: 0o755, UID: user},
		"data":                         {Dir: true, Mode: 0o755, UID: user},
	})
	// bin is a link to usr/bin in every root file system of Debian's.
	files["usr/bin/sh"] = files["bin/sh"]
	delete(files, "bin/sh")
	layer, err := image.Layer(files)
	if err != nil {
		return nil, err
	}
	return image.New(v1.Config{
		Entrypoint: []string{"postgres-start"},
		Env: []string{"PATH=/usr/local/bin:" + bin + ":/usr/bin:/bin", "PGDATA=/data/pgdata", "LANG=C.UTF-8",
			// Without it initdb compares every time zone there is with the system's: minutes, over a file share.
			"TZ=Etc/UTC"},
		User:       fmt.Sprintf("%d:%d", user, user),
		StopSignal: "SIGINT", // "fast": SIGTERM would wait for the clients to go
		WorkingDir: "/data",
	}, layer)
}

// takes are PostgreSQL's server and clients, without what needs Perl, Python or a compiler.
func takes(version string) []guestimage.Take {
	home, share := "/usr/lib/postgresql/"+version, "/usr/share/postgresql/"+version
	except := []string{share + "/man", home + "/lib/bitcode", home + "/lib/pgxs", home + "/lib/llvmjit", share + "/extension/plperl"}
	for _, name := range []string{"bool_plperl", "hstore_plperl", "hstore_plpython3", "jsonb_plperl", "jsonb_plpython3", "ltree_plpython3"} {
		except = append(except, home+"/lib/"+name)
	}
	return []guestimage.Take{
		{Package: "postgresql-" + version, Trees: []string{home, share}, Except: except},
		{Package: "postgresql-client-" + version, Trees: []string{home, share}, Except: except},
		{Package: "tzdata", Trees: []string{"/usr/share/zoneinfo"}},
		{Package: "libc-bin", Trees: []string{"/usr/lib/locale/C.utf8"}},
		{Package: "busybox-static", Files: []string{"/bin/busybox"}, Links: map[string]string{
			"/bin/rm": "busybox", "/bin/mv": "busybox", "/bin/mkdir": "busybox", "/bin/cat": "busybox", "/bin/ls": "busybox", "/bin/chmod": "busybox", "/bin/df": "busybox",
		}},
		{Package: "libgcc-s1", Files: []string{"/lib/x86_64-linux-gnu/libgcc_s.so.1"}},
	}
}

var dependsLine = regexp.MustCompile(`^\s*Depends: postgresql-([0-9]+)$`)

// debianVersion asks apt which PostgreSQL this Debian has.
func debianVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "postgresql").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for its PostgreSQL (try: apt-get update): %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if m := dependsLine.FindStringSubmatch(lines.Text()); m != nil {
			return m[1], nil
		}
	}
	return "", fmt.Errorf("apt does not say which PostgreSQL it has: %q", out)
}
