// Replaces the host in tests without WebAssembly.

#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// What the host's functions return about the record; a test may set it.
typedef struct {
  const uint8_t *payload;
  size_t payload_size;
  const char *entry;
  const char *content_type;
} host_record_t;

extern host_record_t host_record;

#ifdef __cplusplus
}
#endif
