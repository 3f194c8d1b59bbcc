package claims

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// ErrNotFound says that there is no such claim, or that its volume is another driver's.
var ErrNotFound = errors.New("no such claim")

const (
	// pageSize is how many objects are asked for at once.
	pageSize = 500
	// maxEvents bounds how many warnings are read: the newest are not the first, but a namespace rarely has more.
	maxEvents = 5000
)

// Reader reads a cluster.
type Reader struct {
	Client kubernetes.Interface
	// DriverNamespace is where the drivers' pods are, "" for anywhere, and DriverSelector which ones they are.
	DriverNamespace, DriverSelector string
	// NodeTimeout bounds the wait for one driver.
	NodeTimeout time.Duration
	// Progress, if not nil, is told in a few words what is being waited for.
	Progress func(string)
	// Now is the time; nil is time.Now.
	Now func() time.Time
}

// View reads all claims of a namespace, "" for all. It fails only if the claims themselves cannot be read.
func (r Reader) View(ctx context.Context, namespace string) (*View, error) {
	all, err := list(ctx, func(o metav1.ListOptions) ([]corev1.PersistentVolumeClaim, string, error) {
		l, err := r.Client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, o)
		return l.Items, l.Continue, err
	})
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	return r.view(ctx, namespace, all, true)
}

// Claim reads one claim. It returns ErrNotFound if there is none, or it is not the driver's.
func (r Reader) Claim(ctx context.Context, namespace, name string) (*View, error) {
	claim, err := r.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w: %s in namespace %s", ErrNotFound, name, namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("get claim %s: %w", name, err)
	}
	view, err := r.view(ctx, namespace, []corev1.PersistentVolumeClaim{*claim}, false)
	if err != nil {
		return nil, err
	}
	if len(view.Volumes) == 0 {
		return nil, fmt.Errorf("%w of %s: %s in namespace %s has another driver's volume; kubectl describe pvc %s shows it",
			ErrNotFound, Driver, name, namespace, name)
	}
	return view, nil
}

// view is of these claims and, if they are asked for, of the inline volumes of the namespace's pods.
func (r Reader) view(ctx context.Context, namespace string, all []corev1.PersistentVolumeClaim, withInline bool) (*View, error) {
	j := joiner{now: time.Now, withInline: withInline}
	if r.Now != nil {
		j.now = r.Now
	}
	for _, step := range []func(context.Context, string, *joiner) error{
		r.readVolumes, r.readPods, r.readSnapshots, r.readEvents,
	} {
		if err := step(ctx, namespace, &j); err != nil {
			return nil, err
		}
	}
	volumes := j.volumes(all)
	nodes, found := r.askDrivers(ctx, volumes, &j)
	j.addFacts(volumes, nodes, found)
	slices.SortStableFunc(volumes, func(a, b Volume) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name(), b.Name()))
	})
	return &View{Volumes: volumes, Nodes: nodes, Notes: j.notes}, ctx.Err()
}

func (r Reader) readVolumes(ctx context.Context, _ string, j *joiner) error {
	all, err := list(ctx, func(o metav1.ListOptions) ([]corev1.PersistentVolume, string, error) {
		l, err := r.Client.CoreV1().PersistentVolumes().List(ctx, o)
		return l.Items, l.Continue, err
	})
	j.persistent = map[string]corev1.PersistentVolume{}
	for _, v := range all {
		j.persistent[v.Name] = v
	}
	return j.optional(err, "persistent volumes", "handles and nodes are unknown")
}

func (r Reader) readPods(ctx context.Context, namespace string, j *joiner) (err error) {
	j.pods, err = list(ctx, func(o metav1.ListOptions) ([]corev1.Pod, string, error) {
		l, err := r.Client.CoreV1().Pods(namespace).List(ctx, o)
		return l.Items, l.Continue, err
	})
	return j.optional(err, "pods", "who uses a claim is unknown")
}

// readEvents reads warnings only: what went well is not asked for.
func (r Reader) readEvents(ctx context.Context, namespace string, j *joiner) (err error) {
	j.events, err = list(ctx, func(o metav1.ListOptions) ([]corev1.Event, string, error) {
		o.FieldSelector = "type=" + corev1.EventTypeWarning
		l, err := r.Client.CoreV1().Events(namespace).List(ctx, o)
		if len(j.events) >= maxEvents {
			l.Continue = ""
		}
		return l.Items, l.Continue, err
	})
	return j.optional(err, "events", "what went wrong is known from the drivers only")
}

// list reads all pages.
func list[T any](ctx context.Context, page func(metav1.ListOptions) ([]T, string, error)) (all []T, err error) {
	options := metav1.ListOptions{Limit: pageSize}
	for {
		items, next, err := page(options)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if next == "" || ctx.Err() != nil {
			return all, ctx.Err()
		}
		options.Continue = next
	}
}

// optional turns an error of something that can be done without into a note; only the end of ctx stays an error.
func (j *joiner) optional(err error, what, consequence string) error {
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("read %s: %w", what, err)
	case apierrors.IsForbidden(err):
		j.note("you may not list %s, so %s; ask your administrator for the ClusterRole katadirect-view", what, consequence)
	default:
		j.note("%s could not be read, so %s: %v", what, consequence, err)
	}
	return nil
}

func (j *joiner) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(j.notes, text) {
		j.notes = append(j.notes, text)
	}
}
