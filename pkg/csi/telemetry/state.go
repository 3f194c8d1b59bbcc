package telemetry

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// State is what the driver knows about its volumes without asking anybody who may not answer: no guest, no API server.
type State struct {
	Pool    Pool
	Volumes []Volume // in the order of their ids
	Damaged int      // volumes that cannot be used
	Staged  int      // volumes that kubelet has staged

	Snapshots int
	// Records are those of the host, the driver's own and others'. A claim is the mark of a sandbox in a record.
	Records, UnreadableRecords int
	Claims, StaleClaims        int
}

// Pool is how much room there is. All sizes are in bytes.
type Pool struct {
	Path           string
	SizeBytes      int64   // of the file system that the pool is on
	FreeBytes      int64   // that an ordinary user could still write there
	PromisedBytes  int64   // the sizes of all volumes
	BookedBytes    int64   // what the disk needs for these promises, within the over-commitment
	TakenBytes     int64   // what volumes and snapshots have on the disk, at least
	AvailableBytes int64   // the largest ext4 volume that could be made now
	Overcommit     float64 // what the operator allows
	Short          bool    // the disk cannot hold what is promised
}

// Volume is one volume. What its guest said last, or the host saw that has it mounted, is there when anything was since the
// driver started.
type Volume struct {
	ID             string
	Name           string // the PersistentVolume's
	FileSystem     string // block for none
	SizeBytes      int64
	AllocatedBytes int64
	// InMachine says that a living sandbox has it.
	InMachine bool
	// Failing are the calls for it that fail at present, and since when.
	Failing map[string]time.Time
	Guest   *GuestState
}

// GuestState is what a guest said about a volume's file system, and when, or what the host saw in a mount of its own.
type GuestState struct {
	When                                     time.Time // zero if it never said anything
	CapacityBytes, UsedBytes, AvailableBytes int64
	Inodes, InodesUsed                       int64
	// Abnormal says that the guest has found something wrong with the volume.
	Abnormal bool
	// Problems are the reasons, in one word each, of a known few.
	Problems []string
	// Silent says that the guest has not answered when it was asked last.
	Silent bool
}

// Source says how things are. It must answer from what it has, and give up when its context ends.
type Source interface {
	State(context.Context) (State, error)
}

// scrapeTimeout bounds how long a scrape waits for the host's own files.
const scrapeTimeout = 5 * time.Second

// collector asks the source on every scrape; between scrapes it costs nothing.
type collector struct {
	source     Source
	maxVolumes int
	log        *slog.Logger
}

// RegisterState registers the metrics of pool, volumes and records. Not more than maxVolumes volumes, the first by id,
// get series of their own: a monitoring system pays for each series.
func RegisterState(registry prometheus.Registerer, source Source, maxVolumes int, log *slog.Logger) {
	registry.MustRegister(&collector{source: source, maxVolumes: maxVolumes, log: log})
}

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("katadirect_csi_"+name, help, labels, nil)
}

var (
	stateReadable = gauge("state_readable", "Whether pool and records could be read in time: 1, or 0 when the metrics of pool, volumes and records are missing.")

	poolSize       = gauge("pool_size_bytes", "Size of the file system that the pool is on.", "pool")
	poolFree       = gauge("pool_free_bytes", "What that file system has free, without root's reserve.", "pool")
	poolPromised   = gauge("pool_promised_bytes", "The sizes of all volumes.", "pool")
	poolBooked     = gauge("pool_booked_bytes", "What the disk needs for all promises, within the over-commitment.", "pool")
	poolTaken      = gauge("pool_taken_bytes", "What volumes and snapshots have on the disk, at least.", "pool")
	poolAvailable  = gauge("pool_available_bytes", "The largest ext4 volume that could be made now.", "pool")
	poolOvercommit = gauge("pool_overcommit_ratio", "How many bytes may be promised for each that there is.", "pool")
	poolShort      = gauge("pool_short", "Whether the disk cannot hold what is promised, or is nearly full while over-committed: 1, or 0.", "pool")

	volumes           = gauge("volumes", "Volumes of the pool. State is usable or damaged.", "state")
	volumesStaged     = gauge("volumes_staged", "Volumes that kubelet has staged.")
	volumesUnreported = gauge("volumes_unreported", "Volumes that have no series of their own, because there are more than --metrics-volumes.")
	snapshots         = gauge("snapshots", "Snapshots of the pool's volumes, those of groups included.")
	records           = gauge("records", "Records of direct volumes on this host, whoever wrote them. State is readable or unreadable.", "state")
	claims            = gauge("claims", "Claims of sandboxes on records. State is live or stale (the sandbox is gone).", "state")

	volumeSize       = gauge("volume_size_bytes", "Size of the volume.", "volume")
	volumeAllocated  = gauge("volume_allocated_bytes", "What the volume takes of the pool.", "volume")
	volumeCapacity   = gauge("volume_capacity_bytes", "Size of the file system in it, as found last by who has it mounted.", "volume")
	volumeUsed       = gauge("volume_used_bytes", "What is used of that file system, as found last.", "volume")
	volumeAvailable  = gauge("volume_available_bytes", "What is left of it, as found last.", "volume")
	volumeInodes     = gauge("volume_inodes", "Inodes of that file system, as found last.", "volume")
	volumeInodesUsed = gauge("volume_inodes_used", "Inodes in use, as found last.", "volume")
	volumeProblem    = gauge("volume_problem", "Always 1; the label is what its guest, or the host that has it mounted, has found wrong with the volume.", "volume", "reason")
	volumeInfo       = gauge("volume_info", "Always 1; the labels are the PersistentVolume's name and the file system, block for none.", "volume", "persistentvolume", "filesystem")
	volumeInMachine  = gauge("volume_in_machine", "Whether a living machine has the volume: 1, or 0.", "volume")
	volumeFailing    = gauge("volume_call_failing_since_seconds", "Since when RPCs for the volume fail, in seconds since 1970; missing when they do not.", "volume", "method")
	volumeAbnormal   = gauge("volume_abnormal", "Whether its guest, or the host that has it mounted, has found something wrong with the volume: 1, or 0.", "volume")
	volumeSilent     = gauge("volume_guest_silent", "Whether its guest did not answer when it was asked last: 1, or 0.", "volume")
	volumeStatsTime  = gauge("volume_stats_timestamp_seconds", "When that was found, in seconds since 1970.", "volume")
)

// all are the metrics that a scrape makes, in no order.
var all = []*prometheus.Desc{
	stateReadable, poolSize, poolFree, poolPromised, poolBooked, poolTaken, poolAvailable, poolOvercommit, poolShort,
	volumes, volumesStaged, volumesUnreported, snapshots, records, claims,
	volumeSize, volumeAllocated, volumeCapacity, volumeUsed, volumeAvailable, volumeInodes, volumeInodesUsed,
	volumeAbnormal, volumeProblem, volumeSilent, volumeStatsTime, volumeInfo, volumeInMachine, volumeFailing,
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range all {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	s, err := c.source.State(ctx)
	if err != nil {
		c.log.WarnContext(ctx, "the metrics of pool, volumes and records are missing from this scrape", "error", err)
		set(stateReadable, 0)
		return
	}
	set(stateReadable, 1)
	collectPool(set, s.Pool)
	set(volumes, float64(len(s.Volumes)), "usable")
	set(volumes, float64(s.Damaged), "damaged")
	set(volumesStaged, float64(s.Staged))
	set(snapshots, float64(s.Snapshots))
	set(records, float64(s.Records), "readable")
	set(records, float64(s.UnreadableRecords), "unreadable")
	set(claims, float64(s.Claims), "live")
	set(claims, float64(s.StaleClaims), "stale")
	reported := min(len(s.Volumes), c.maxVolumes)
	set(volumesUnreported, float64(len(s.Volumes)-reported))
	for _, v := range s.Volumes[:reported] {
		collectVolume(set, v)
	}
}

func collectPool(set func(*prometheus.Desc, float64, ...string), p Pool) {
	set(poolSize, float64(p.SizeBytes), p.Path)
	set(poolFree, float64(p.FreeBytes), p.Path)
	set(poolPromised, float64(p.PromisedBytes), p.Path)
	set(poolBooked, float64(p.BookedBytes), p.Path)
	set(poolTaken, float64(p.TakenBytes), p.Path)
	set(poolAvailable, float64(p.AvailableBytes), p.Path)
	set(poolOvercommit, p.Overcommit, p.Path)
	set(poolShort, truth(p.Short), p.Path)
}

func collectVolume(set func(*prometheus.Desc, float64, ...string), v Volume) {
	set(volumeSize, float64(v.SizeBytes), v.ID)
	set(volumeAllocated, float64(v.AllocatedBytes), v.ID)
	set(volumeInfo, 1, v.ID, v.Name, v.FileSystem)
	set(volumeInMachine, truth(v.InMachine), v.ID)
	for method, since := range v.Failing {
		set(volumeFailing, float64(since.Unix()), v.ID, method)
	}
	g := v.Guest
	if g == nil {
		return
	}
	set(volumeSilent, truth(g.Silent), v.ID)
	if g.When.IsZero() {
		return
	}
	set(volumeStatsTime, float64(g.When.UnixMilli())/1000, v.ID)
	set(volumeCapacity, float64(g.CapacityBytes), v.ID)
	set(volumeUsed, float64(g.UsedBytes), v.ID)
	set(volumeAvailable, float64(g.AvailableBytes), v.ID)
	set(volumeInodes, float64(g.Inodes), v.ID)
	set(volumeInodesUsed, float64(g.InodesUsed), v.ID)
	set(volumeAbnormal, truth(g.Abnormal), v.ID)
	for _, reason := range g.Problems {
		set(volumeProblem, 1, v.ID, reason)
	}
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
