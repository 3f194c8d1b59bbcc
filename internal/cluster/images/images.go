// Package images makes the images that Kubernetes' own test suite asks for by name, and that are of use to a person
// as well. There is no registry to have them from: each is made of the programs that Kubernetes' module has the source
// of, and of Debian's own. What stands in for something else says so here and in docs/conformance.md.
package images

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/katadirect/katadirect/internal/image"
)

const (
	e2e     = "registry.k8s.io/e2e-test-images/"
	busybox = "/bin/busybox"
	// bash is sh in the images: busybox's own forgets variables with a dash in their names, which ConfigMaps may have.
	bash = "/bin/bash-static"
)

// searchPath is where the images' programs are looked for.
var searchPath = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// Small are the images that need no more than Kubernetes' pause program, from the folder programs, and busybox.
func Small(programs string) (map[string]v1.Image, error) {
	pause, err := os.ReadFile(filepath.Join(programs, "pause"))
	if err != nil {
		return nil, err
	}
	pauseImage, err := build(image.Files{"pause": image.Program(pause)}, v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"})
	if err != nil {
		return nil, err
	}
	shell, err := shellFiles()
	if err != nil {
		return nil, err
	}
	busyboxImage, err := build(shell, v1.Config{Cmd: []string{"sh"}})
	if err != nil {
		return nil, err
	}
	return map[string]v1.Image{
		"registry.k8s.io/pause:3.10.1":     pauseImage,
		"docker.io/library/busybox:1":      busyboxImage,
		"docker.io/library/busybox:latest": busyboxImage,
		e2e + "busybox:1.37.0-1":           busyboxImage,
	}, nil
}

// Suite are Small and what else the NodeConformance specs ask for.
func Suite(programs string) (map[string]v1.Image, error) {
	all, err := Small(programs)
	if err != nil {
		return nil, err
	}
	for _, add := range []func(map[string]v1.Image, string) error{addAgnhost, addUsers, addWebServers} {
		if err := add(all, programs); err != nil {
			return nil, fmt.Errorf("make the suite's images: %w", err)
		}
	}
	return all, nil
}

// Available are Suite when its programs are there, else Small.
func Available(programs string) (map[string]v1.Image, error) {
	if _, err := os.Stat(filepath.Join(programs, "agnhost")); err != nil {
		return Small(programs)
	}
	return Suite(programs)
}

// addAgnhost adds the suite's own program for everything, beside the tools that specs run in its container.
func addAgnhost(all map[string]v1.Image, programs string) error {
	files, err := shellFiles()
	if err != nil {
		return err
	}
	agnhost, err := os.ReadFile(filepath.Join(programs, "agnhost"))
	if err != nil {
		return err
	}
	curl, err := hostProgram("/usr/bin/curl")
	if err != nil {
		return err
	}
	netcat, err := hostProgram("/usr/bin/nc.openbsd")
	if err != nil {
		return err
	}
	// busybox's netcat speaks no UDP.
	netcat["bin/nc"] = image.Link("/usr/bin/nc.openbsd")
	for _, name := range []string{"localhost.crt", "localhost.key"} {
		content, err := os.ReadFile(filepath.Join(programs, name))
		if err != nil {
			return err
		}
		files[name] = image.Text(string(content))
	}
	files.Add(curl).Add(netcat).Add(image.Files{
		"agnhost": image.Program(agnhost), "agnhost-2": image.Link("agnhost"), "uploads": image.Dir(0o755),
		"etc/passwd": image.Text(passwd + "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n"),
		"etc/group":  image.Text(group + "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"),
	})
	made, err := build(files, v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}})
	all[e2e+"agnhost:2.56"] = made
	return err
}

// addUsers adds the images that are about who runs in them.
func addUsers(all map[string]v1.Image, programs string) error {
	nnp, err := os.ReadFile(filepath.Join(programs, "nonewprivs"))
	if err != nil {
		return err
	}
	files, err := shellFiles()
	if err != nil {
		return err
	}
	if all[e2e+"nonroot:1.4"], err = build(files, v1.Config{Cmd: []string{"sh"}, User: "1234"}); err != nil {
		return err
	}
	files.Add(image.Files{"usr/local/bin/nnp": {Mode: 0o6755, Content: nnp}})
	all[e2e+"nonewprivs:1.3"], err = build(files, v1.Config{Cmd: []string{"nnp"}})
	return err
}

// addWebServers adds stand-ins: busybox's web server under the names of others. No spec of the selection asks more of
// them than to run.
func addWebServers(all map[string]v1.Image, _ string) error {
	files, err := shellFiles()
	if err != nil {
		return err
	}
	files.Add(image.Files{"www/index.html": image.Text("<html><body><h1>It works!</h1></body></html>\n")})
	made, err := build(files, v1.Config{Cmd: []string{"httpd", "-f", "-p", "80", "-h", "/www"}})
	for _, name := range []string{"httpd:2.4.38-4", "httpd:2.4.39-4", "nginx:1.14-4", "nginx:1.15-4"} {
		all[e2e+name] = made
	}
	return err
}

func build(files image.Files, config v1.Config) (v1.Image, error) {
	layer, err := image.Layer(files)
	if err != nil {
		return nil, err
	}
	config.Env = searchPath
	return image.New(config, layer)
}

// passwd and group are those of the busybox image.
const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
	group  = "root:x:0:\nnobody:x:65534:\n"
)

// shellFiles is Debian's static busybox under every name it knows, and bash as its shell.
func shellFiles() (image.Files, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("%w (Debian's package busybox-static has it)", err)
	}
	shell, err := os.ReadFile(bash)
	if err != nil {
		return nil, fmt.Errorf("%w (Debian's package bash-static has it)", err)
	}
	names, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("ask busybox for its names: %w", err)
	}
	files := image.Files{
		"bin/busybox": image.Program(program), "usr/bin/env": image.Link(busybox),
		"etc/passwd": image.Text(passwd), "etc/group": image.Text(group),
		"root": image.Dir(0o700), "home": image.Dir(0o755), "tmp": image.Dir(0o1777), "var": image.Dir(0o755),
	}
	for _, name := range strings.Fields(string(names)) {
		if name != "busybox" {
			files["bin/"+name] = image.Link(busybox)
		}
	}
	files["bin/bash"], files["bin/sh"] = image.Program(shell), image.Link("/bin/bash")
	return files, nil
}
