// The conformance guest in C; ../README.md says what it does.

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/transform.h"

typedef transform_string_t string_t;
typedef transform_list_u8_t bytes_t;
typedef exports_reduct_sink_transform_transformer_message_t message_t;
typedef exports_reduct_sink_transform_transformer_verdict_t verdict_t;
typedef reduct_sink_transform_types_change_t change_t;
typedef exports_reduct_sink_transform_transformer_failure_t failure_t;

enum { KEEP, DROP, CHANGE, SPLIT };

static bytes_t prefix;
static unsigned long long calls;

static string_t string(const void *text, size_t length) {
  return (string_t){length ? memcpy(malloc(length), text, length) : NULL, length};
}

static bytes_t bytes(const void *from, size_t length) {
  return (bytes_t){length ? memcpy(malloc(length), from, length) : NULL, length};
}

static void fail(const char *text) {
  string_t string = {(uint8_t *)text, strlen(text)};
  reduct_sink_transform_host_log(REDUCT_SINK_TRANSFORM_HOST_LEVEL_ERROR, &string);
  __builtin_trap();
}

static bool is(bytes_t text, const char *word) { return text.len == strlen(word) && !memcmp(text.ptr, word, text.len); }

static uint64_t number(bytes_t text, size_t *at) {
  uint64_t sum = 0;
  for (; *at < text.len && text.ptr[*at] != ' '; ++*at) sum = sum * 10 + text.ptr[*at] - '0';
  return sum;
}

static void add_label(change_t *change, string_t name, transform_option_string_t value) {
  size_t count = change->labels.len++;
  change->labels.ptr = realloc(change->labels.ptr, change->labels.len * sizeof *change->labels.ptr);
  change->labels.ptr[count] = (reduct_sink_transform_types_label_change_t){name, value};
}

static void append(bytes_t *to, const void *from, size_t length) {
  if (!length) return;
  to->ptr = realloc(to->ptr, to->len + length);
  memcpy(to->ptr + to->len, from, length);
  to->len += length;
}

static void append_number(bytes_t *to, uint64_t number) {
  char text[24];
  append(to, text, snprintf(text, sizeof text, "%llu", (unsigned long long)number));
}

static void tell(bytes_t what, message_t *message, bytes_t *told) {
  string_t text;
  if (is(what, "topic")) append(told, message->topic.ptr, message->topic.len);
  else if (is(what, "partition")) append_number(told, message->partition);
  else if (is(what, "offset")) append_number(told, message->offset);
  else if (is(what, "timestamp")) append_number(told, message->timestamp);
  else if (is(what, "payload-size")) append_number(told, message->payload_size);
  else if (is(what, "count")) append_number(told, calls);
  else if (is(what, "key")) {
    append(told, message->key.is_some ? "some:" : "none", message->key.is_some ? 5 : 4);
    if (message->key.is_some) append(told, message->key.val.ptr, message->key.val.len);
  } else if (is(what, "payload")) {
    bytes_t payload;
    reduct_sink_transform_host_payload(&payload);
    append(told, payload.ptr, payload.len);
    transform_list_u8_free(&payload);
  } else if (is(what, "entry") || is(what, "content-type")) {
    if (is(what, "entry")) reduct_sink_transform_host_entry(&text);
    else reduct_sink_transform_host_content_type(&text);
    append(told, text.ptr, text.len);
    transform_string_free(&text);
  } else if (is(what, "headers")) {
    for (size_t i = 0; i < message->headers.len; i++) {
      reduct_sink_transform_types_header_t *header = &message->headers.ptr[i];
      append(told, header->key.ptr, header->key.len);
      if (header->value.is_some) append(told, "=", 1);
      if (header->value.is_some) append(told, header->value.val.ptr, header->value.val.len);
      append(told, "\n", 1);
    }
  } else if (is(what, "labels")) {
    reduct_sink_transform_host_list_label_t labels;
    reduct_sink_transform_host_labels(&labels);
    for (size_t i = 0; i < labels.len; i++) {
      append(told, labels.ptr[i].name.ptr, labels.ptr[i].name.len);
      append(told, "=", 1);
      append(told, labels.ptr[i].value.ptr, labels.ptr[i].value.len);
      append(told, "\n", 1);
    }
    reduct_sink_transform_host_list_label_free(&labels);
  } else fail("there is no such thing to tell");
}

static void set_text(transform_option_string_t *field, bytes_t value) {
  *field = (transform_option_string_t){true, string(value.ptr, value.len)};
}

// One command; false on a failure.
static bool run(bytes_t command, bytes_t value, message_t *message, change_t *change, failure_t *failure) {
  size_t at = 0;
  bytes_t *payload = &change->payload.val;
  if (is(command, "entry")) set_text(&change->entry, value);
  else if (is(command, "content-type")) set_text(&change->content_type, value);
  else if (is(command, "timestamp")) change->timestamp = (transform_option_u64_t){true, number(value, &at)};
  else if (is(command, "payload")) change->payload = (transform_option_list_u8_t){true, bytes(value.ptr, value.len)};
  else if (is(command, "fill")) {
    size_t length = number(value, &at);
    change->payload = (transform_option_list_u8_t){true, {memset(malloc(length), 'x', length), length}};
  } else if (is(command, "label")) {
    size_t equals = (uint8_t *)memchr(value.ptr, '=', value.len) - value.ptr;
    string_t text = string(value.ptr + equals + 1, value.len - equals - 1);
    add_label(change, string(value.ptr, equals), (transform_option_string_t){true, text});
  } else if (is(command, "unlabel")) {
    add_label(change, string(value.ptr, value.len), (transform_option_string_t){0});
  } else if (is(command, "labels")) {
    for (uint64_t n = 0, count = number(value, &at); n < count; n++) {
      char name[24];
      int length = snprintf(name, sizeof name, "l%d", (int)n);
      add_label(change, string(name, length), (transform_option_string_t){true, string("v", 1)});
    }
  } else if (is(command, "reject") || is(command, "retry")) {
    failure->tag = is(command, "reject") ? REDUCT_SINK_TRANSFORM_TYPES_FAILURE_REJECT
                                         : REDUCT_SINK_TRANSFORM_TYPES_FAILURE_RETRY;
    failure->val.reject = string(value.ptr, value.len);
    return false;
  } else if (is(command, "trap")) fail("trapped as told");
  else if (is(command, "loop")) for (volatile bool on = true; on;) {}
  else if (is(command, "grow")) {
    for (void *more; (more = malloc(1 << 20));) *(volatile char *)more = 1;
    fail("there is no more memory");
  } else if (is(command, "log")) {
    string_t text = {value.ptr, value.len};
    reduct_sink_transform_host_log(REDUCT_SINK_TRANSFORM_HOST_LEVEL_INFO, &text);
  } else if (is(command, "tell")) {
    change->payload.is_some = true;
    tell(value, message, payload);
  } else if (is(command, "read")) {
    uint64_t offset = number(value, &at);
    bytes_t part;
    at++;
    reduct_sink_transform_host_read(offset, number(value, &at), &part);
    change->payload.is_some = true;
    append(payload, part.ptr, part.len);
    transform_list_u8_free(&part);
  } else {
    transform_option_string_t text = {true, string(value.ptr, value.len)};
    add_label(change, string(command.ptr, command.len), text);
  }
  return true;
}

bool exports_reduct_sink_transform_transformer_transform(message_t *message, verdict_t *verdict, failure_t *failure) {
  reduct_sink_transform_types_list_change_t changes = {calloc(1, sizeof(change_t)), 1};
  bool split = false, touched = false, dropped = false, good = true;
  calls++;
  memset(verdict, 0, sizeof *verdict);
  for (size_t i = 0; good && i < message->headers.len; i++) {
    reduct_sink_transform_types_header_t *header = &message->headers.ptr[i];
    bytes_t key = {header->key.ptr, header->key.len}, value = {0};
    if (key.len < prefix.len || (prefix.len && memcmp(key.ptr, prefix.ptr, prefix.len))) continue;
    bytes_t command = {key.ptr + prefix.len, key.len - prefix.len};
    if (header->value.is_some) value = header->value.val;
    touched |= !is(command, "keep") && !is(command, "log");
    dropped |= is(command, "drop");
    if (is(command, "part") || is(command, "parts")) {
      size_t at = 0, count = is(command, "part") ? 1 : number(value, &at), before = split ? changes.len : 0;
      split = true;
      changes.len = before + count;
      changes.ptr = realloc(changes.ptr, (changes.len + 1) * sizeof *changes.ptr);
      memset(changes.ptr + before, 0, count * sizeof *changes.ptr);
    } else if (!is(command, "keep") && !is(command, "drop") && !is(command, "change")) {
      good = run(command, value, message, &changes.ptr[changes.len - 1], failure);
    }
  }
  if (good && split && !dropped) {
    verdict->tag = SPLIT;
    verdict->val.split = changes;
  } else {
    if (good && touched && !dropped) {
      verdict->tag = CHANGE;
      verdict->val.change = changes.ptr[0];
      changes.len = 0;
      free(changes.ptr);
    } else {
      verdict->tag = dropped ? DROP : KEEP;
      reduct_sink_transform_types_list_change_free(&changes);
    }
  }
  exports_reduct_sink_transform_transformer_message_free(message);
  return good;
}

// What the configuration's JSON has for this key, if that is text without escapes.
static bytes_t text_of(string_t *config, const char *key) {
  uint8_t *end = config->ptr + config->len, *at = memmem(config->ptr, config->len, key, strlen(key));
  if (!at || !(at = memchr(at, ':', end - at)) || !(at = memchr(at, '"', end - at))) return (bytes_t){0};
  at++;
  return (bytes_t){at, (uint8_t *)memchr(at, '"', end - at) - at};
}

bool exports_reduct_sink_transform_transformer_configure(string_t *config, string_t *error) {
  if (memmem(config->ptr, config->len, "\"trap\"", 6)) fail("trapped as told");
  bytes_t refusal = text_of(config, "\"refuse\"");
  *error = string(refusal.ptr, refusal.len);
  prefix = text_of(config, "\"prefix\"");
  return refusal.ptr == NULL;
}
