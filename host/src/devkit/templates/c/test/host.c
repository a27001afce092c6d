// The functions that the bindings import from the host. The plugin owns the memory that they return, as in WebAssembly.

#include "host.h"

#include <stdlib.h>
#include <string.h>

host_record_t host_record = {NULL, 0, "topic", ""};

// Writes a pointer and a length to the place where the bindings expect them.
static void answer(uint8_t *place, const void *bytes, size_t length) {
  void *copy = malloc(length + 1);
  if (length > 0) memcpy(copy, bytes, length);
  memcpy(place, &copy, sizeof copy);
  memcpy(place + sizeof copy, &length, sizeof length);
}

void __wasm_import_reduct_sink_transform_host_log(int32_t level, uint8_t *text, size_t length) {
  (void)level, (void)text, (void)length;
}

void __wasm_import_reduct_sink_transform_host_payload(uint8_t *place) {
  answer(place, host_record.payload, host_record.payload_size);
}

void __wasm_import_reduct_sink_transform_host_read(int64_t offset, int32_t length, uint8_t *place) {
  size_t begin = (uint64_t)offset < host_record.payload_size ? (size_t)offset : host_record.payload_size;
  size_t left = host_record.payload_size - begin, wanted = (uint32_t)length;
  answer(place, host_record.payload + begin, wanted < left ? wanted : left);
}

void __wasm_import_reduct_sink_transform_host_entry(uint8_t *place) {
  answer(place, host_record.entry, strlen(host_record.entry));
}

void __wasm_import_reduct_sink_transform_host_content_type(uint8_t *place) {
  answer(place, host_record.content_type, strlen(host_record.content_type));
}

// The record has no labels.
void __wasm_import_reduct_sink_transform_host_labels(uint8_t *place) { answer(place, NULL, 0); }

// The bindings refer to this symbol, which brings the contract into a component. It isn't needed here.
void __component_type_object_force_link_transform(void) {}
