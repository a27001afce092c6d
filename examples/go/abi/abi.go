// Package abi is what the generated bindings need to run: values that may be missing, and memory that the host may
// write to. A plugin uses Some, None, Ok and Err of it.
//
// Two problems of Go are solved here. A garbage collection that ends while the host asks for memory would trap, so
// automatic collections are switched off, and Unpin, with which each call begins, runs them. And memory that the host
// wrote must not be collected before the call has read it, so it is pinned until then.
package abi

import (
	"fmt"
	"path"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"unsafe"
)

// Option is a value that may be missing.
type Option[T any] struct {
	some  bool
	value T
}

const (
	OptionNone = 0
	OptionSome = 1
)

func Some[T any](value T) Option[T] { return Option[T]{true, value} }
func None[T any]() Option[T]        { return Option[T]{} }

func (o Option[T]) IsSome() bool { return o.some }

// Some returns the value, and panics if it is missing.
func (o Option[T]) Some() T {
	if !o.some {
		panic("the value is missing")
	}
	return o.value
}

// SomeOr returns the value, or other if it is missing.
func (o Option[T]) SomeOr(other T) T {
	if o.some {
		return o.value
	}
	return other
}

func (o Option[T]) Tag() uint8 {
	if o.some {
		return OptionSome
	}
	return OptionNone
}

// Result is an answer or an error.
type Result[T, E any] struct {
	failed bool
	ok     T
	err    E
}

const (
	ResultOk  = 0
	ResultErr = 1
)

// Unit is the answer of a function that returns nothing.
type Unit struct{}

func Ok[T, E any](value T) Result[T, E]  { return Result[T, E]{ok: value} }
func Err[T, E any](value E) Result[T, E] { return Result[T, E]{failed: true, err: value} }

func (r Result[T, E]) Ok() T  { return r.ok }
func (r Result[T, E]) Err() E { return r.err }

func (r Result[T, E]) Tag() uint8 {
	if r.failed {
		return ResultErr
	}
	return ResultOk
}

// Recover, deferred, turns a panic into a rejected record: the reason is the panic's text, with the plugin's file and
// line.
func Recover(reject func(reason string)) {
	if problem := recover(); problem != nil {
		reject(fmt.Sprintf("panic: %v%s", problem, panicPlace()))
	}
}

// panicPlace returns the file and line of the innermost call of the plugin's own code.
func panicPlace() string {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(1, callers)])
	for {
		frame, more := frames.Next()
		if strings.HasPrefix(frame.Function, "plugin/") && !strings.HasPrefix(frame.Function, "plugin/abi") {
			return fmt.Sprintf(" (%s:%d)", path.Base(frame.File), frame.Line)
		}
		if !more {
			return ""
		}
	}
}

// Allocate returns memory that stays where it is until it is unpinned.
func Allocate(pinner *runtime.Pinner, size, align uintptr) unsafe.Pointer {
	if size == 0 {
		return nil
	}
	var memory unsafe.Pointer
	if align == 1 {
		memory = unsafe.Pointer(unsafe.SliceData(make([]byte, size)))
	} else {
		memory = unsafe.Pointer(unsafe.SliceData(make([]uint64, (size+7)/8)))
	}
	pinner.Pin(memory)
	return memory
}

const (
	// A collection runs after this many bytes were allocated. Whether they were is looked at every callsALook calls, or
	// when the host itself wrote that many bytes.
	garbage    = 16 << 20
	callsALook = 100
)

var (
	fromHost      runtime.Pinner
	fromHostBytes uintptr
	calls         int
	collectedAt   uint64
	allocs        = []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	running       bool
)

func init() {
	debug.SetGCPercent(-1)
	running = true
}

// Unpin releases the memory that the host wrote; what is still referred to isn't collected.
func Unpin() {
	fromHost.Unpin()
	if calls++; calls%callsALook != 0 && fromHostBytes < garbage {
		return
	}
	fromHostBytes = 0
	metrics.Read(allocs)
	if allocated := allocs[0].Value.Uint64(); allocated-collectedAt > garbage {
		runtime.GC()
		collectedAt = allocated
	}
}

//go:wasmimport wasi_snapshot_preview1 adapter_monotonic_clock_set_paused
func pauseClock(paused bool)

//go:linkname sbrk runtime.sbrk
func sbrk(size uintptr) unsafe.Pointer

// realloc is the function by which the host asks for memory.
//
//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldSize, align, size uintptr) unsafe.Pointer {
	if old != nil {
		panic("the host doesn't grow what it has")
	}
	if !running {
		// The adapter asks before Go's runtime has started, so the memory must lie outside Go's heap.
		memory := uintptr(sbrk(size + align))
		return unsafe.Pointer((memory + align - 1) &^ (align - 1))
	}
	fromHostBytes += size
	pauseClock(true)
	memory := Allocate(&fromHost, size, align)
	pauseClock(false)
	return memory
}
