package agentclient

import "github.com/katadirect/katadirect/internal/calltimes"

// requests are those that are not named as their methods.
var requests = map[string]string{
	"GetGuestDetails": "GuestDetailsRequest", "GetVolumeStats": "VolumeStatsRequest", "WriteStdin": "WriteStreamRequest",
	"ReadStdout": "ReadStreamRequest", "ReadStderr": "ReadStreamRequest",
}

// action is a method's name in Kata's metrics, for example grpc.CreateContainerRequest.
func action(method string) string {
	if request, ok := requests[method]; ok {
		return "grpc." + request
	}
	return "grpc." + method + "Request"
}

// CallTimes tells how long calls took.
func (c *Client) CallTimes() []calltimes.Of { return c.times.All() }
