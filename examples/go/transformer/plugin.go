// Package transformer is the plugin: it has three transforms, of which the configuration chooses one.
package transformer

import (
	"encoding/json"
	"fmt"

	"plugin/abi"
	"plugin/bindings/types"
)

type transform func(types.Message) (types.Verdict, error)

var chosen transform

// Configure is called once, before the first record.
func Configure(text string) abi.Result[abi.Unit, string] {
	var config struct{ Transform, Header, Value string }
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return abi.Err[abi.Unit](err.Error())
	}
	switch config.Transform {
	case "drop":
		chosen = dropByHeader(config.Header, config.Value)
	case "label":
		chosen = label
	case "split":
		chosen = split
	default:
		return abi.Err[abi.Unit](fmt.Sprintf("transform: %q; it can be drop, label or split", config.Transform))
	}
	return abi.Ok[abi.Unit, string](abi.Unit{})
}

// Transform decides about one record. An error or a panic rejects the record, which then goes to the dead letters.
func Transform(message types.Message) (answer abi.Result[types.Verdict, types.Failure]) {
	defer abi.Recover(func(reason string) {
		answer = abi.Err[types.Verdict](types.MakeFailureReject(reason))
	})
	verdict, err := chosen(message)
	if err != nil {
		return abi.Err[types.Verdict](types.MakeFailureReject(err.Error()))
	}
	return abi.Ok[types.Verdict, types.Failure](verdict)
}
