package csi

import (
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// maxPooledBytes is the largest answer that is encoded into gRPC's pooled memory. The next larger pieces there have a MiB
// each, are cleared in whole for every answer, and two of them were as much memory as all that a driver of a thousand
// volumes knows.
const maxPooledBytes = 32 << 10

// codec is gRPC's own, save that it encodes a long answer, which is a list, into memory of just its size.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(encodingproto.Name)} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	message, isMessage := v.(proto.Message)
	if !isMessage {
		return c.CodecV2.Marshal(v)
	}
	size := proto.Size(message)
	if size <= maxPooledBytes {
		return c.CodecV2.Marshal(v)
	}
	data, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(make([]byte, 0, size), message)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}
