package transformer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"plugin/abi"
	"plugin/bindings/host"
	"plugin/bindings/types"
)

// Makes a record of each line of JSON in the payload.
func split(types.Message) (types.Verdict, error) {
	var parts []types.Change
	for number, line := range bytes.Split(host.Payload(), []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		if !json.Valid(line) {
			return types.Verdict{}, fmt.Errorf("line %d of the payload isn't JSON", number+1)
		}
		parts = append(parts, types.Change{
			Labels:  []types.LabelChange{{Name: "part", Value: abi.Some(strconv.Itoa(len(parts)))}},
			Payload: abi.Some(line),
		})
	}
	if len(parts) == 0 {
		return types.MakeVerdictDrop(), nil
	}
	return types.MakeVerdictSplit(parts), nil
}
