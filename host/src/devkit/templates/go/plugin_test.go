// Tests without WebAssembly: go test ./transformer
package transformer

import (
	"strings"
	"testing"

	"plugin/abi"
	"plugin/bindings/host"
	"plugin/bindings/types"
)

func decideOn(t *testing.T, settings, payload string, headers ...types.Header) types.Verdict {
	t.Helper()
	if answer := Configure(settings); answer.Tag() == abi.ResultErr {
		t.Fatal(answer.Err())
	}
	host.Record.Payload = []byte(payload)
	answer := Transform(types.Message{Topic: "topic", Headers: headers, PayloadSize: uint64(len(payload))})
	if answer.Tag() == abi.ResultErr {
		t.Fatal(answer.Err())
	}
	return answer.Ok()
}

func TestHeartbeatsAreDropped(t *testing.T) {
	verdict := decideOn(t, "{}", "", types.Header{Key: "type", Value: abi.Some([]byte("heartbeat"))})
	if verdict.Tag() != types.Verdict_Drop {
		t.Errorf("the verdict is %v", verdict)
	}
}

func TestSizesBecomeLabels(t *testing.T) {
	for payload, expected := range map[string]string{"1234": "small", "12345": "large"} {
		labels := decideOn(t, `{"large_bytes": 5}`, payload).Change().Labels
		if len(labels) != 1 || labels[0].Name != "size_class" || labels[0].Value.SomeOr("") != expected {
			t.Errorf("the labels of %q are %v", payload, labels)
		}
	}
}

func TestAnUnknownKeyIsRefused(t *testing.T) {
	if answer := Configure(`{"large": 5}`); answer.Tag() != abi.ResultErr || !strings.Contains(answer.Err(), "large") {
		t.Errorf("the answer is %v", answer)
	}
}
