package management

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
)

// profiles adds the paths of Go's own profiler, and /debug/vars in the form of package expvar: the library's would be
// registered for the whole process, also where nobody asked for it. A profile of the processor takes as long as its
// request says, and is bounded by the server.
func profiles(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/vars", func(w http.ResponseWriter, _ *http.Request) {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_ = json.NewEncoder(w).Encode(map[string]any{"cmdline": os.Args, "memstats": stats})
	})
}
