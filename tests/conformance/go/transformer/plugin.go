// Package transformer is the conformance guest in Go; ../../README.md says what it does.
package transformer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"plugin/abi"
	"plugin/bindings/host"
	"plugin/bindings/types"
)

var config struct {
	Prefix string
	Refuse *string
	Trap   bool
}

var calls int

var hoard [][]byte

func Configure(text string) abi.Result[abi.Unit, string] {
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return abi.Err[abi.Unit](err.Error())
	}
	if config.Trap {
		panic("trapped as told")
	}
	if config.Refuse != nil {
		return abi.Err[abi.Unit](*config.Refuse)
	}
	return abi.Ok[abi.Unit, string](abi.Unit{})
}

func Transform(message types.Message) abi.Result[types.Verdict, types.Failure] {
	calls++
	changes := make([]types.Change, 1)
	split, touched, dropped := false, false, false
	for _, header := range message.Headers {
		command, ours := strings.CutPrefix(header.Key, config.Prefix)
		if !ours {
			continue
		}
		value := header.Value.SomeOr(nil)
		text := string(value)
		if (command == "part" || command == "parts") && !split {
			split, changes = true, nil
		}
		if command == "part" {
			changes = append(changes, types.Change{})
		} else if command == "parts" {
			changes = append(changes, make([]types.Change, number(text))...)
		}
		touched = touched || command != "keep" && command != "log"
		change := &types.Change{}
		if len(changes) > 0 {
			change = &changes[len(changes)-1]
		}
		label := func(name string, value abi.Option[string]) {
			change.Labels = append(change.Labels, types.LabelChange{Name: name, Value: value})
		}
		switch command {
		case "keep", "part", "parts", "change":
		case "drop":
			dropped = true
		case "entry":
			change.Entry = abi.Some(text)
		case "timestamp":
			change.Timestamp = abi.Some(uint64(number(text)))
		case "content-type":
			change.ContentType = abi.Some(text)
		case "payload":
			change.Payload = abi.Some(value)
		case "fill":
			change.Payload = abi.Some(bytes.Repeat([]byte("x"), int(number(text))))
		case "label":
			name, value, _ := strings.Cut(text, "=")
			label(name, abi.Some(value))
		case "unlabel":
			label(text, abi.None[string]())
		case "labels":
			for n := range number(text) {
				label(fmt.Sprintf("l%d", n), abi.Some("v"))
			}
		case "reject":
			return abi.Err[types.Verdict](types.MakeFailureReject(text))
		case "retry":
			return abi.Err[types.Verdict](types.MakeFailureRetry(text))
		case "trap":
			panic("trapped as told")
		case "loop":
			for {
			}
		case "grow":
			for {
				hoard = append(hoard, make([]byte, 1<<20))
			}
		case "log":
			host.Log(host.Level_Info, text)
		case "tell":
			change.Payload = abi.Some(append(change.Payload.SomeOr(nil), tell(text, message)...))
		case "read":
			offset, length, _ := strings.Cut(text, " ")
			read := host.Read(uint64(number(offset)), uint32(number(length)))
			change.Payload = abi.Some(append(change.Payload.SomeOr(nil), read...))
		default:
			label(command, abi.Some(text))
		}
	}
	verdict := types.MakeVerdictKeep()
	if dropped {
		verdict = types.MakeVerdictDrop()
	} else if split {
		verdict = types.MakeVerdictSplit(changes)
	} else if touched {
		verdict = types.MakeVerdictChange(changes[0])
	}
	return abi.Ok[types.Verdict, types.Failure](verdict)
}

func tell(what string, message types.Message) []byte {
	var told bytes.Buffer
	switch what {
	case "topic":
		return []byte(message.Topic)
	case "partition":
		fmt.Fprint(&told, message.Partition)
	case "offset":
		fmt.Fprint(&told, message.Offset)
	case "timestamp":
		fmt.Fprint(&told, message.Timestamp)
	case "payload-size":
		fmt.Fprint(&told, message.PayloadSize)
	case "payload":
		return host.Payload()
	case "entry":
		return []byte(host.Entry())
	case "content-type":
		return []byte(host.ContentType())
	case "count":
		fmt.Fprint(&told, calls)
	case "key":
		if !message.Key.IsSome() {
			return []byte("none")
		}
		fmt.Fprintf(&told, "some:%s", message.Key.Some())
	case "headers":
		for _, header := range message.Headers {
			told.WriteString(header.Key)
			if header.Value.IsSome() {
				fmt.Fprintf(&told, "=%s", header.Value.Some())
			}
			told.WriteByte('\n')
		}
	case "labels":
		for _, label := range host.Labels() {
			fmt.Fprintf(&told, "%s=%s\n", label.Name, label.Value)
		}
	default:
		panic("there is no " + what + " to tell")
	}
	return told.Bytes()
}

func number(text string) int64 {
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return number
}
