// Drops records of one type, and labels the others by their size.
//
// The plugin owns what the host passes to it, and frees it. The bindings free what the plugin answers, so that memory
// must come from malloc.

#include <stdlib.h>
#include <string.h>

#include "bindings/transform.h"
#include "json.h"

typedef transform_string_t string_t;
typedef exports_reduct_sink_transform_transformer_message_t message_t;
typedef exports_reduct_sink_transform_transformer_verdict_t verdict_t;
typedef exports_reduct_sink_transform_transformer_failure_t failure_t;

// Records whose header "type" is this are dropped.
static uint8_t *dropped;
static size_t dropped_length;
// Payloads of at least this many bytes are large.
static uint64_t large_bytes = 1000;

static bool equal(const char *text, const uint8_t *bytes, size_t length) {
  return length == strlen(text) && memcmp(text, bytes, length) == 0;
}

static bool refuse(string_t *error, const char *reason) {
  transform_string_dup(error, reason);
  return false;
}

static bool read_settings(json_t *json, string_t *error) {
  uint8_t *key = malloc((size_t)(json->end - json->at) + 1);
  size_t length;
  int64_t number;
  bool good = json_token(json, '{'), more = good && !json_token(json, '}');
  for (; good && more; more = json_token(json, ',')) {
    if (!json_string(json, key, &length) || !json_token(json, ':')) {
      good = refuse(error, "the configuration isn't a JSON object");
    } else if (equal("drop", key, length)) {
      if (!json_string(json, dropped, &dropped_length)) good = refuse(error, "drop: expected a text");
    } else if (equal("large_bytes", key, length)) {
      if (!json_whole(json, &number) || number < 0) good = refuse(error, "large_bytes: expected a whole number from 0 on");
      else large_bytes = (uint64_t)number;
    } else {
      good = refuse(error, "unknown key; there are drop and large_bytes");
    }
  }
  free(key);
  return good;
}

// Called once, before the first record.
bool exports_reduct_sink_transform_transformer_configure(string_t *config, string_t *error) {
  static const char heartbeat[] = "heartbeat";
  dropped_length = strlen(heartbeat);
  dropped = malloc(config->len + sizeof heartbeat);
  memcpy(dropped, heartbeat, dropped_length);
  json_t json = {config->ptr, config->ptr + config->len, 0};
  bool good = read_settings(&json, error);
  transform_string_free(config);
  return good;
}

// Decides on one record. To reject it, fill in the failure and return false: it goes to the dead letters.
bool exports_reduct_sink_transform_transformer_transform(message_t *message, verdict_t *verdict, failure_t *failure) {
  (void)failure;
  memset(verdict, 0, sizeof *verdict);
  verdict->tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE;
  for (size_t i = 0; i < message->headers.len; i++) {
    reduct_sink_transform_types_header_t *header = &message->headers.ptr[i];
    if (!equal("type", header->key.ptr, header->key.len)) continue;
    bool same = header->value.is_some && header->value.val.len == dropped_length &&
                memcmp(header->value.val.ptr, dropped, dropped_length) == 0;
    if (same) verdict->tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_DROP;
    break;
  }
  if (verdict->tag == REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE) {
    reduct_sink_transform_types_label_change_t *label = calloc(1, sizeof *label);
    transform_string_dup(&label->name, "size_class");
    label->value.is_some = true;
    transform_string_dup(&label->value.val, message->payload_size >= large_bytes ? "large" : "small");
    // Fields that aren't set leave the record as it is.
    verdict->val.change.labels.ptr = label;
    verdict->val.change.labels.len = 1;
  }
  exports_reduct_sink_transform_transformer_message_free(message);
  return true;
}
