package csi

import (
	"log/slog"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// stripped stands in logs for a secret.
const stripped = "***stripped***"

// loggable is a message that writes itself into a log without its secrets, and only if the log wants it.
type loggable struct{ message any }

// LogValue implements slog.LogValuer.
func (l loggable) LogValue() slog.Value {
	m, isMessage := l.message.(proto.Message)
	if !isMessage || m == nil {
		return slog.StringValue("")
	}
	m = proto.Clone(m)
	stripSecrets(m.ProtoReflect())
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return slog.StringValue(err.Error())
	}
	return slog.StringValue(string(text))
}

// stripSecrets replaces the value of every field that csi.proto marks as a secret, however deep it stands. It asks
// the message's own description, so that a secret which a later CSI adds is found without a change here.
func stripSecrets(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case isSecret(field):
			strip(m, field, value)
		case field.IsMap():
			stripTokens(field, value)
			if field.MapValue().Message() != nil {
				value.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					stripSecrets(v.Message())
					return true
				})
			}
		case field.Message() != nil && field.IsList():
			for i := range value.List().Len() {
				stripSecrets(value.List().Get(i).Message())
			}
		case field.Message() != nil:
			stripSecrets(value.Message())
		}
		return true
	})
}

// tokensKey is where kubelet puts a pod's tokens in the volume context, which csi.proto does not mark as a secret.
const tokensKey = "csi.storage.k8s.io/serviceAccount.tokens"

func stripTokens(field protoreflect.FieldDescriptor, value protoreflect.Value) {
	key := protoreflect.ValueOfString(tokensKey).MapKey()
	if field.MapKey().Kind() == protoreflect.StringKind && field.MapValue().Kind() == protoreflect.StringKind && value.Map().Has(key) {
		value.Map().Set(key, protoreflect.ValueOfString(stripped))
	}
}

func isSecret(field protoreflect.FieldDescriptor) bool {
	options, ok := field.Options().(*descriptorpb.FieldOptions)
	return ok && proto.GetExtension(options, csi.E_CsiSecret).(bool)
}

// strip keeps the keys of a map, which say what was given, and nothing of its values. Anything but strings is cleared.
func strip(m protoreflect.Message, field protoreflect.FieldDescriptor, value protoreflect.Value) {
	switch {
	case field.IsMap() && field.MapValue().Kind() == protoreflect.StringKind:
		secrets := value.Map()
		secrets.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
			secrets.Set(key, protoreflect.ValueOfString(stripped))
			return true
		})
	case field.Kind() == protoreflect.StringKind && field.Cardinality() != protoreflect.Repeated:
		m.Set(field, protoreflect.ValueOfString(stripped))
	default:
		m.Clear(field)
	}
}
