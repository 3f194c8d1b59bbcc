package main

import (
	"context"
	"time"
)

// measureBoot boots machines to their agent's first answer.
func measureBoot(ctx context.Context, e *env, runs int) ([]Figure, error) {
	var s samples
	for range runs {
		bare, floor, err := startBare(ctx, e, false)
		if err != nil {
			return nil, err
		}
		bare.stop()
		ours, value, err := startOurs(ctx, e)
		if err != nil {
			return nil, err
		}
		if err := ours.stop(ctx); err != nil {
			return nil, err
		}
		s.add(milliseconds(value), milliseconds(floor))
	}
	return []Figure{s.figure("boot",
		"start of the file share and of QEMU to the agent's first answer; floor: a bare QEMU to a bare agent's",
		"ms", ratioAtMost(1.25), e.accel)}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
