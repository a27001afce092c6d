package transformer

import (
	"encoding/json"
	"fmt"
	"strconv"

	"plugin/abi"
	"plugin/bindings/host"
	"plugin/bindings/types"
)

// The fields of the payload that the transform uses.
type frame struct {
	Camera *string
	Line   *int64
	OK     *bool
}

// Turns fields of a JSON payload into the entry and labels.
func label(types.Message) (types.Verdict, error) {
	var frame frame
	if err := json.Unmarshal(host.Payload(), &frame); err != nil {
		return types.Verdict{}, fmt.Errorf("the payload isn't the JSON that is expected: %w", err)
	}
	if frame.Camera == nil {
		return types.Verdict{}, fmt.Errorf("the payload has no field \"camera\"")
	}
	change := types.Change{
		Entry:       abi.Some("cameras/" + *frame.Camera),
		ContentType: abi.Some("application/json"),
	}
	set := func(name, value string) {
		change.Labels = append(change.Labels, types.LabelChange{Name: name, Value: abi.Some(value)})
	}
	if frame.Line != nil {
		set("line", strconv.FormatInt(*frame.Line, 10))
	}
	if frame.OK != nil {
		set("ok", strconv.FormatBool(*frame.OK))
	}
	return types.MakeVerdictChange(change), nil
}
