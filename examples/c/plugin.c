// A plugin with three transforms, of which the configuration chooses one.
//
// The plugin owns what the host passes to it, and frees it. The bindings free what the plugin answers, so that memory
// must come from malloc.

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/transform.h"
#include "json.h"

typedef transform_string_t string_t;
typedef transform_list_u8_t bytes_t;
typedef exports_reduct_sink_transform_transformer_message_t message_t;
typedef exports_reduct_sink_transform_transformer_verdict_t verdict_t;
typedef reduct_sink_transform_types_change_t change_t;
typedef exports_reduct_sink_transform_transformer_failure_t failure_t;

enum { KEEP, DROP, CHANGE, SPLIT };

static string_t format(const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  string_t copy;
  transform_string_dup(&copy, text);
  return copy;
}

static void add_label(change_t *change, const char *name, string_t value) {
  size_t count = change->labels.len++;
  change->labels.ptr = realloc(change->labels.ptr, change->labels.len * sizeof *change->labels.ptr);
  change->labels.ptr[count] = (reduct_sink_transform_types_label_change_t){format("%s", name), {true, value}};
}

// Rejects the record, which then goes to the dead letters.
static bool reject(failure_t *failure, string_t reason) {
  failure->tag = REDUCT_SINK_TRANSFORM_TYPES_FAILURE_REJECT;
  failure->val.reject = reason;
  return false;
}

// Drops the records that have this header with this value.

static bytes_t wanted_header, wanted_value;

static bool equal(const void *a, size_t a_length, bytes_t b) {
  return a_length == b.len && memcmp(a, b.ptr, b.len) == 0;
}

static bool drop(message_t *message, verdict_t *verdict, failure_t *failure) {
  (void)failure;
  for (size_t i = 0; i < message->headers.len; i++) {
    reduct_sink_transform_types_header_t *header = &message->headers.ptr[i];
    if (equal(header->key.ptr, header->key.len, wanted_header) && header->value.is_some &&
        equal(header->value.val.ptr, header->value.val.len, wanted_value))
      verdict->tag = DROP;
  }
  return true;
}

// Turns fields of a JSON payload into the entry and labels.

static bool label_fields(json_t *json, change_t *change, uint8_t *text, failure_t *failure) {
  static const char bad[] = "the payload isn't a JSON object";
  size_t length;
  int64_t line;
  bool has_line = false, has_ok = false, ok = false;
  if (!json_valid(json->at, json->end - json->at)) return reject(failure, format("the payload isn't JSON"));
  if (!json_token(json, '{')) return reject(failure, format(bad));
  if (json_token(json, '}')) return true;
  do {
    if (!json_string(json, text, &length) || !json_token(json, ':')) return reject(failure, format(bad));
    bytes_t name = {text, length};
    if (equal("camera", 6, name)) {
      if (!json_string(json, text, &length)) return reject(failure, format("\"camera\" isn't text"));
      if (change->entry.is_some) transform_string_free(&change->entry.val);
      change->entry.is_some = true;
      change->entry.val = (string_t){malloc(8 + length), 8 + length};
      memcpy(change->entry.val.ptr, "cameras/", 8);
      memcpy(change->entry.val.ptr + 8, text, length);
    } else if (equal("line", 4, name) && !json_word(json, "null")) {
      if (!json_whole(json, &line)) return reject(failure, format("\"line\" isn't a whole number"));
      has_line = true;
    } else if (equal("ok", 2, name) && !json_word(json, "null")) {
      has_ok = true;
      ok = json_word(json, "true");
      if (!ok && !json_word(json, "false")) return reject(failure, format("\"ok\" isn't true or false"));
    } else if (!equal("line", 4, name) && !equal("ok", 2, name) && !json_value(json)) {
      return reject(failure, format(bad));
    }
  } while (json_token(json, ','));
  if (has_line) add_label(change, "line", format("%lld", (long long)line));
  if (has_ok) add_label(change, "ok", format(ok ? "true" : "false"));
  return true;
}

static bool label(message_t *message, verdict_t *verdict, failure_t *failure) {
  (void)message;
  bytes_t payload;
  reduct_sink_transform_host_payload(&payload);
  change_t *change = &verdict->val.change;
  verdict->tag = CHANGE;
  uint8_t *text = malloc(payload.len + 1);
  json_t json = {payload.ptr, payload.ptr + payload.len, 0};
  bool good = label_fields(&json, change, text, failure);
  if (good && !change->entry.is_some) good = reject(failure, format("the payload has no field \"camera\""));
  change->content_type.is_some = true;
  change->content_type.val = format("application/json");
  free(text);
  transform_list_u8_free(&payload);
  return good;
}

// Makes a record of each line of JSON in the payload.

static bool split(message_t *message, verdict_t *verdict, failure_t *failure) {
  (void)message;
  bytes_t payload;
  reduct_sink_transform_host_payload(&payload);
  reduct_sink_transform_types_list_change_t parts = {0};
  bool good = true;
  size_t number = 0, room = 0;
  for (uint8_t *line = payload.ptr, *end = line + payload.len, *next; good && line < end; line = next + 1) {
    next = memchr(line, '\n', end - line);
    if (!next) next = end;
    number++;
    if (next == line) continue;
    if (!json_valid(line, next - line)) {
      good = reject(failure, format("line %zu of the payload isn't JSON", number));
      break;
    }
    if (parts.len == room) parts.ptr = realloc(parts.ptr, (room = room * 2 + 16) * sizeof *parts.ptr);
    change_t *part = &parts.ptr[parts.len];
    memset(part, 0, sizeof *part);
    add_label(part, "part", format("%zu", parts.len));
    part->payload.is_some = true;
    part->payload.val = (bytes_t){memcpy(malloc(next - line), line, next - line), next - line};
    parts.len++;
  }
  transform_list_u8_free(&payload);
  if (good && parts.len == 0) {
    free(parts.ptr);
    verdict->tag = DROP;
    return true;
  }
  verdict->tag = SPLIT;
  verdict->val.split = parts;
  return good;
}

// The functions of the contract.

static bool (*chosen)(message_t *, verdict_t *, failure_t *);

// Called once, before the first record.
bool exports_reduct_sink_transform_transformer_configure(string_t *config, string_t *error) {
  json_t json = {config->ptr, config->ptr + config->len, 0};
  uint8_t *name = malloc(config->len + 1);
  bytes_t transform = {0}, *values[] = {&transform, &wanted_header, &wanted_value};
  static const char *keys[] = {"transform", "header", "value"};
  bool more = json_token(&json, '{') && !json_token(&json, '}');
  while (more) {
    bytes_t key = {name, 0}, *value = NULL;
    if (!json_string(&json, name, &key.len) || !json_token(&json, ':')) break;
    for (int i = 0; i < 3; i++)
      if (equal(keys[i], strlen(keys[i]), key)) value = values[i];
    if (value) {
      value->ptr = malloc(config->len + 1);
      if (!json_string(&json, value->ptr, &value->len)) break;
    } else if (!json_value(&json)) {
      break;
    }
    more = json_token(&json, ',');
  }
  if (equal("drop", 4, transform)) chosen = drop;
  else if (equal("label", 5, transform)) chosen = label;
  else if (equal("split", 5, transform)) chosen = split;
  else *error = format("transform: it can be \"drop\", \"label\" or \"split\"");
  free(name);
  free(transform.ptr);
  transform_string_free(config);
  return chosen != NULL;
}

// Decides about one record.
bool exports_reduct_sink_transform_transformer_transform(message_t *message, verdict_t *verdict, failure_t *failure) {
  memset(verdict, 0, sizeof *verdict);
  bool good = chosen(message, verdict, failure);
  if (!good) exports_reduct_sink_transform_transformer_verdict_free(verdict);
  exports_reduct_sink_transform_transformer_message_free(message);
  return good;
}
