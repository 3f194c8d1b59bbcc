package guestimage

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseDependsTakesTheFirstOfAlternatives(t *testing.T) {
	out := `crun
  Depends: libc6
  PreDepends: libcap2
  Depends: libsystemd0
    libelogind0
 |Depends: first
 |Depends: second
  Depends: third
  Depends: <virtual>
    provider
  Depends: libfoo:i386
  Depends: libc6
  Conflicts: old
libc6
  Depends: libgcc-s1
alone
`
	want := map[string][]string{
		"crun":  {"libc6", "libcap2", "libsystemd0", "first"},
		"libc6": {"libgcc-s1"},
	}
	if diff := cmp.Diff(want, parseDepends([]byte(out))); diff != "" {
		t.Error(diff)
	}
}

func TestReachFollowsOnlyLibrariesAndKernels(t *testing.T) {
	depends := map[string][]string{
		"tool":          {"liba", "python3"},
		"liba":          {"libb", "perl"},
		"libb":          {"liba", "zlib1g"},
		"python3":       {"libpython3"},
		"linux-image-x": {"linux-image-6.1", "kmod"},
	}
	want := []string{"liba", "libb", "linux-image-6.1", "linux-image-x", "tool", "zlib1g"}
	if diff := cmp.Diff(want, reach(depends, []string{"tool", "linux-image-x"})); diff != "" {
		t.Error(diff)
	}
}

func TestParseURIs(t *testing.T) {
	const sum = "34bdcf1a097ec34da2e7b77b65fa351134702af775174af22555b16421709c51"
	for _, c := range []struct {
		name, in string
		want     catalog
		err      bool
	}{
		{
			name: "versions with and without an epoch, and a notice",
			in: "Reading package lists...\n'http://d/pool/c/crun_1.8.1-1%2bdeb12u1_amd64.deb' crun_1.8.1-1+deb12u1_amd64.deb 289288 SHA256:" + sum + "\n" +
				"'http://d/pool/b/b.deb' busybox-static_1%3a1.35.0-4+b1_all.deb 9 SHA256:" + sum + "\n",
			want: catalog{
				"crun":           {Name: "crun", Version: "1.8.1-1+deb12u1", file: "crun_1.8.1-1+deb12u1_amd64", sha256: sum},
				"busybox-static": {Name: "busybox-static", Version: "1:1.35.0-4+b1", file: "busybox-static_1%3a1.35.0-4+b1_all", sha256: sum},
			},
		},
		{name: "a weaker sum", in: "'http://d/x' crun_1_amd64.deb 1 MD5Sum:00\n", err: true},
		{name: "no sum", in: "'http://d/x' crun_1_amd64.deb 1 \n", err: true},
		{name: "a path for a name", in: "'http://d/x' ../crun_1_amd64.deb 1 SHA256:" + sum + "\n", err: true},
		{name: "a path for a version", in: "'http://d/x' crun_../../1_amd64.deb 1 SHA256:" + sum + "\n", err: true},
		{name: "nothing", in: "", want: catalog{}},
	} {
		got, err := parseURIs([]byte(c.in))
		if (err != nil) != c.err {
			t.Errorf("%s: error %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(aptPackage{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
