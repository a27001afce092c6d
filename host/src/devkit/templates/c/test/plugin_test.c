// Tests without WebAssembly: sh test/run

#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../bindings/transform.h"
#include "host.h"

typedef exports_reduct_sink_transform_transformer_message_t message_t;
typedef exports_reduct_sink_transform_transformer_verdict_t verdict_t;
typedef exports_reduct_sink_transform_transformer_failure_t failure_t;

// Configures the plugin. If it fails, the caller frees the error.
static bool configure(const char *settings, transform_string_t *error) {
  transform_string_t config;
  transform_string_dup(&config, settings);
  return exports_reduct_sink_transform_transformer_configure(&config, error);
}

// The plugin's verdict about a record with this payload, and with a header `type` unless that is NULL.
static verdict_t decide(const char *settings, const char *type, const char *payload) {
  transform_string_t error;
  assert(configure(settings, &error));
  message_t message = {0};
  transform_string_dup(&message.topic, "topic");
  if (type) {
    message.headers.ptr = calloc(1, sizeof *message.headers.ptr);
    message.headers.len = 1;
    transform_string_dup(&message.headers.ptr->key, "type");
    transform_string_t value;
    transform_string_dup(&value, type);
    message.headers.ptr->value = (transform_option_list_u8_t){true, {value.ptr, value.len}};
  }
  message.payload_size = strlen(payload);
  host_record.payload = (const uint8_t *)payload;
  host_record.payload_size = strlen(payload);
  verdict_t verdict;
  failure_t failure;
  assert(exports_reduct_sink_transform_transformer_transform(&message, &verdict, &failure));
  return verdict;
}

static void heartbeats_are_dropped(void) {
  verdict_t verdict = decide("{}", "heartbeat", "");
  assert(verdict.tag == REDUCT_SINK_TRANSFORM_TYPES_VERDICT_DROP);
}

static void sizes_become_labels(void) {
  const char *payloads[] = {"1234", "12345"}, *classes[] = {"small", "large"};
  for (int i = 0; i < 2; i++) {
    verdict_t verdict = decide("{\"large_bytes\": 5}", NULL, payloads[i]);
    assert(verdict.tag == REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE && verdict.val.change.labels.len == 1);
    transform_string_t name = verdict.val.change.labels.ptr->name, value = verdict.val.change.labels.ptr->value.val;
    assert(name.len == strlen("size_class") && memcmp(name.ptr, "size_class", name.len) == 0);
    assert(value.len == strlen(classes[i]) && memcmp(value.ptr, classes[i], value.len) == 0);
    exports_reduct_sink_transform_transformer_verdict_free(&verdict);
  }
}

static void an_unknown_key_is_refused(void) {
  transform_string_t error;
  assert(!configure("{\"large\": 5}", &error));
  assert(error.len > 0);
  transform_string_free(&error);
}

int main(void) {
  heartbeats_are_dropped();
  sizes_become_labels();
  an_unknown_key_is_refused();
  puts("3 tests passed");
}
