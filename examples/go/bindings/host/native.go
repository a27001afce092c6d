//go:build !wasm

// Package host, in tests without WebAssembly: its functions tell about Record, which a test may set.
package host

import "plugin/bindings/types"

type Label = types.Label

type Level = uint8

const (
	Level_Error Level = 0
	Level_Warn  Level = 1
	Level_Info  Level = 2
	Level_Debug Level = 3
)

// Record is what the host has of the record that the plugin is asked about.
var Record struct {
	Payload     []byte
	Entry       string
	Labels      []types.Label
	ContentType string
}

func Log(level Level, text string) {}

func Payload() []byte { return Record.Payload }

func Read(offset uint64, length uint32) []byte {
	end := min(offset+uint64(length), uint64(len(Record.Payload)))
	return Record.Payload[min(offset, end):end]
}

func Entry() string { return Record.Entry }

func Labels() []types.Label { return Record.Labels }

func ContentType() string { return Record.ContentType }
