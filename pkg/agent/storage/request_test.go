package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestRequestsThatMakeNoSenseAreRefused(t *testing.T) {
	r := newRig(t)
	blk := func(change func(*agentproto.Storage)) *agentproto.Storage {
		s := &agentproto.Storage{Driver: "blk", Source: "02/01", Fstype: "ext4", MountPoint: filepath.Join(r.dir, "x")}
		change(s)
		return s
	}
	for name, tc := range map[string]struct {
		s    *agentproto.Storage
		want error
	}{
		"no mount point":            {blk(func(s *agentproto.Storage) { s.MountPoint = "" }), ErrRequest},
		"relative mount point":      {blk(func(s *agentproto.Storage) { s.MountPoint = "a/b" }), ErrRequest},
		"the root as mount point":   {blk(func(s *agentproto.Storage) { s.MountPoint = "/x/.." }), ErrRequest},
		"no file system type":       {blk(func(s *agentproto.Storage) { s.Fstype = "" }), ErrRequest},
		"no source":                 {blk(func(s *agentproto.Storage) { s.Source = "" }), device.ErrAddress},
		"a node outside of /dev":    {blk(func(s *agentproto.Storage) { s.Source = "/dev/../etc/passwd" }), device.ErrAddress},
		"unknown driver":            {blk(func(s *agentproto.Storage) { s.Driver = "9p" }), ErrDriver},
		"format at any rate":        {blk(func(s *agentproto.Storage) { s.DriverOptions = []string{OptionFormat + "=always"} }), ErrRequest},
		"grow at some other time":   {blk(func(s *agentproto.Storage) { s.DriverOptions = []string{OptionGrow} }), ErrRequest},
		"encryption":                {blk(func(s *agentproto.Storage) { s.DriverOptions = []string{"encryption_key=ephemeral"} }), ErrDriver},
		"loop":                      {blk(func(s *agentproto.Storage) { s.Options = []string{"loop"} }), filesystem.ErrOptions},
		"a group that is no number": {blk(func(s *agentproto.Storage) { s.Options = []string{"fsgid=root"} }), ErrRequest},
		"a SCSI address that is none": {&agentproto.Storage{
			Driver: "scsi", Source: "1", Fstype: "ext4", MountPoint: filepath.Join(r.dir, "x")}, device.ErrAddress},
		"memory of a disk's type": {&agentproto.Storage{
			Driver: "ephemeral", Fstype: "ext4", MountPoint: filepath.Join(r.dir, "x")}, ErrRequest},
		"a device that never comes": {blk(func(s *agentproto.Storage) { s.Source = "1f/1f" }), device.ErrTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			if err := r.Add(t.Context(), tc.s); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
	if _, err := os.Lstat(filepath.Join(r.dir, "x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

func TestUnknownDriverOptionsArePassedOver(t *testing.T) {
	got, err := parse(&agentproto.Storage{
		Driver: "blk", MountPoint: "/x", DriverOptions: []string{"encryption_key=secret", "new-thing", ifBlankOption},
	})
	if err != nil || !got.formatIfBlank || got.ephemeral || got.growOnMount {
		t.Errorf("%+v, %v", got, err)
	}
}
