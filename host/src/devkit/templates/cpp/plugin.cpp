// Drops records of one type, and labels the others by their size.
//
// The plugin owns what the host passes to it, and frees it. The bindings free what the plugin answers, so that memory
// must come from malloc.

#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "bindings/transform.h"
#include "json.hpp"

using Text = transform_string_t;
using Message = exports_reduct_sink_transform_transformer_message_t;
using Verdict = exports_reduct_sink_transform_transformer_verdict_t;
using Failure = exports_reduct_sink_transform_transformer_failure_t;
using LabelChange = reduct_sink_transform_types_label_change_t;

namespace {

struct Settings {
  // Records whose header "type" is this are dropped.
  std::string drop = "heartbeat";
  // Payloads of at least this many bytes are large.
  uint64_t large_bytes = 1000;
};

Settings settings;

Text owned(std::string_view text) {
  Text copy{static_cast<uint8_t *>(std::malloc(text.size() + 1)), text.size()};
  std::memcpy(copy.ptr, text.data(), text.size());
  return copy;
}

std::string_view view(const uint8_t *bytes, size_t length) { return {reinterpret_cast<const char *>(bytes), length}; }

// The value of the first header with that key; none if there is no such header, or its value is null.
std::optional<std::string_view> header(const Message &message, std::string_view key) {
  for (size_t at = 0; at < message.headers.len; at++) {
    const auto &header = message.headers.ptr[at];
    if (view(header.key.ptr, header.key.len) != key) continue;
    if (!header.value.is_some) break;
    return view(header.value.val.ptr, header.value.val.len);
  }
  return std::nullopt;
}

// Reads the configuration. Returns an empty text, or what is wrong with it.
std::string read_settings(std::string_view config, Settings &settings) {
  Json json{config};
  if (!json.token('{')) return "the configuration isn't a JSON object";
  if (json.token('}')) return "";
  do {
    auto key = json.text();
    if (!key || !json.token(':')) return "the configuration isn't a JSON object";
    if (*key == "drop") {
      auto value = json.text();
      if (!value) return "drop: expected a text";
      settings.drop = *value;
    } else if (*key == "large_bytes") {
      auto value = json.whole();
      if (!value) return "large_bytes: expected a whole number from 0 on";
      settings.large_bytes = *value;
    } else {
      return *key + ": unknown key, expected one of drop, large_bytes";
    }
  } while (json.token(','));
  return json.token('}') ? "" : "the configuration isn't a JSON object";
}

// To reject a record: fill in the failure, and return false.
bool decide(const Message &message, Verdict &verdict, Failure &) {
  if (header(message, "type") == settings.drop) {
    verdict.tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_DROP;
    return true;
  }
  auto *label = static_cast<LabelChange *>(std::calloc(1, sizeof(LabelChange)));
  label->name = owned("size_class");
  label->value = {true, owned(message.payload_size >= settings.large_bytes ? "large" : "small")};
  verdict.tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE;
  // Fields that aren't set leave the record as it is.
  verdict.val.change.labels = {label, 1};
  return true;
}

}  // namespace

// Called once, before the first record.
extern "C" bool exports_reduct_sink_transform_transformer_configure(Text *config, Text *error) {
  std::string problem = read_settings(view(config->ptr, config->len), settings);
  transform_string_free(config);
  if (!problem.empty()) *error = owned(problem);
  return problem.empty();
}

// Decides on one record.
extern "C" bool exports_reduct_sink_transform_transformer_transform(Message *message, Verdict *verdict, Failure *failure) {
  std::memset(verdict, 0, sizeof *verdict);
  bool decided = decide(*message, *verdict, *failure);
  exports_reduct_sink_transform_transformer_message_free(message);
  return decided;
}
