package main

import (
	"context"

	"github.com/katadirect/katadirect/internal/accel"
	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// detectAccel says what machines run on here, as the shim finds it out, so that both sides of a figure use the same.
func detectAccel(ctx context.Context, image guestimage.Image) (string, error) {
	r, err := accel.Detect(ctx, qemu.KVMTrial(qemu.Config{Kernel: image.Kernel, Initrd: image.Initrd}))
	return r.Accel, err
}
