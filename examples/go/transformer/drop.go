package transformer

import "plugin/bindings/types"

// Drops the records that have this header with this value.
func dropByHeader(key, value string) transform {
	return func(message types.Message) (types.Verdict, error) {
		for _, header := range message.Headers {
			if header.Key == key && header.Value.IsSome() && string(header.Value.Some()) == value {
				return types.MakeVerdictDrop(), nil
			}
		}
		return types.MakeVerdictKeep(), nil
	}
}
