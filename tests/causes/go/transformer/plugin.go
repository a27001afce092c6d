// Package transformer makes ten mistakes; ../../README.md says what the comments mean.
package transformer

import (
	"encoding/json"
	"fmt"

	"plugin/abi"
	"plugin/bindings/types"
)

func Configure(string) abi.Result[abi.Unit, string] {
	return abi.Ok[abi.Unit, string](abi.Unit{})
}

func Transform(message types.Message) (answer abi.Result[types.Verdict, types.Failure]) {
	reject := func(reason string) {
		answer = abi.Err[types.Verdict](types.MakeFailureReject(reason))
	}
	defer abi.Recover(reject)
	name := string(message.Headers[0].Value.Some())
	fmt.Println("making the mistake", name)
	if err := make_mistake(name, message); err != nil {
		reject(err.Error())
		return
	}
	return abi.Ok[types.Verdict, types.Failure](types.MakeVerdictKeep())
}

func make_mistake(name string, message types.Message) error {
	var table map[string]int
	var pointer *types.Message
	var anything any = name
	zero := int(message.Offset - 7)
	list := make([]int, 2+zero)
	switch name {
	case "panic":
		panic("my own panic") //= panic: panic: my own panic
	case "error":
		panic(fmt.Errorf("my own error")) //= error: panic: my own error
	case "index":
		list[len(list)+zero] = 1 //= index: runtime error: index out of range [2] with length 2
	case "slice":
		fmt.Println(list[len(list)+1+zero:]) //= slice: runtime error: slice bounds out of range [3:2]
	case "nil_map":
		table[name] = 1 //= nil_map: assignment to entry in nil map
	case "nil_pointer":
		fmt.Println(pointer.Topic) //= nil_pointer: invalid memory address or nil pointer dereference
	case "assertion":
		fmt.Println(anything.(int)) //= assertion: interface conversion: interface {} is string, not int
	case "division":
		fmt.Println(1 / zero) //= division: runtime error: integer divide by zero
	case "missing_value":
		fmt.Println(abi.None[string]().Some()) //= missing_value: the value is missing
	case "no_json":
		return json.Unmarshal([]byte("{"), &table) //~ no_json: unexpected end of JSON input
	}
	return nil
}
