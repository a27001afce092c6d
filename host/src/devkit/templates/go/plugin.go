// Package transformer is the plugin: it drops records of one type, and labels the others by their size.
package transformer

import (
	"encoding/json"
	"fmt"
	"strings"

	"plugin/abi"
	"plugin/bindings/host"
	"plugin/bindings/types"
)

// The settings in [plugins.config]. The host refuses to load the plugin with any other key.
type settings struct {
	// Records whose header "type" is this are dropped.
	Drop string `json:"drop"`
	// Payloads of at least this many bytes are large.
	LargeBytes uint64 `json:"large_bytes"`
}

var config settings

// Configure is called once, before the first record.
func Configure(text string) abi.Result[abi.Unit, string] {
	config = settings{Drop: "heartbeat", LargeBytes: 1000}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		return abi.Err[abi.Unit](err.Error())
	}
	host.Log(host.Level_Debug, fmt.Sprintf("dropping records of type %q", config.Drop))
	return abi.Ok[abi.Unit, string](abi.Unit{})
}

// Transform decides about one record. An error or a panic rejects the record, which then goes to the dead letters.
func Transform(message types.Message) (answer abi.Result[types.Verdict, types.Failure]) {
	defer abi.Recover(func(reason string) {
		answer = abi.Err[types.Verdict](types.MakeFailureReject(reason))
	})
	return abi.Ok[types.Verdict, types.Failure](decide(message))
}

func decide(message types.Message) types.Verdict {
	if kind, ok := header(message, "type"); ok && string(kind) == config.Drop {
		return types.MakeVerdictDrop()
	}
	size := "small"
	if message.PayloadSize >= config.LargeBytes {
		size = "large"
	}
	label := types.LabelChange{Name: "size_class", Value: abi.Some(size)}
	return types.MakeVerdictChange(types.Change{Labels: []types.LabelChange{label}})
}

// The value of the first header with that key; false if there is no such header, or its value is null.
func header(message types.Message, key string) ([]byte, bool) {
	for _, header := range message.Headers {
		if header.Key == key {
			return header.Value.SomeOr(nil), header.Value.IsSome()
		}
	}
	return nil, false
}
