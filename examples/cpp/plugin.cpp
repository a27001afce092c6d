// A plugin with three transforms, of which the configuration chooses one.
//
// The plugin owns what the host passes to it, and frees it. The bindings free what the plugin answers, so that memory
// must come from malloc.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/transform.h"
#include "json.hpp"

using Text = transform_string_t;
using Message = exports_reduct_sink_transform_transformer_message_t;
using Verdict = exports_reduct_sink_transform_transformer_verdict_t;
using Failure = exports_reduct_sink_transform_transformer_failure_t;
using Change = reduct_sink_transform_types_change_t;
using LabelChange = reduct_sink_transform_types_label_change_t;

namespace {

// A record as it has to be stored; a field that isn't set leaves the record as it is.
struct Output {
  std::optional<std::string> entry, content_type, payload;
  std::vector<std::pair<std::string, std::string>> labels;
};

// The decision about a record.
struct Decision {
  enum Kind { keep, drop, change, split, reject };

  Kind kind = keep;
  std::vector<Output> outputs;
  // Why the record is rejected.
  std::string reason;
};

Decision rejected(std::string reason) { return {Decision::reject, {}, std::move(reason)}; }

std::string_view view(const uint8_t *bytes, size_t length) { return {reinterpret_cast<const char *>(bytes), length}; }

std::string whole_payload() {
  transform_list_u8_t payload;
  reduct_sink_transform_host_payload(&payload);
  std::string copy{view(payload.ptr, payload.len)};
  transform_list_u8_free(&payload);
  return copy;
}

// Drops the records that have this header with this value.

std::string wanted_header, wanted_value;

Decision drop(const Message &message) {
  for (size_t at = 0; at < message.headers.len; at++) {
    const auto &[key, value] = message.headers.ptr[at];
    if (view(key.ptr, key.len) == wanted_header && value.is_some && view(value.val.ptr, value.val.len) == wanted_value)
      return {Decision::drop, {}, {}};
  }
  return {};
}

// Turns fields of a JSON payload into the entry and labels.

Decision label(const Message &) {
  auto json = Json::read(whole_payload());
  if (!json) return rejected("the payload isn't JSON");
  if (json->kind != Json::object) return rejected("the payload isn't a JSON object");
  const Json *camera = json->find("camera"), *line = json->find("line"), *ok = json->find("ok");
  if (!camera) return rejected("the payload has no field \"camera\"");
  if (camera->kind != Json::text) return rejected("\"camera\" isn't text");
  if (line && !line->whole()) return rejected("\"line\" isn't a whole number");
  if (ok && ok->kind != Json::boolean) return rejected("\"ok\" isn't true or false");
  Output output;
  output.entry = "cameras/" + camera->characters;
  output.content_type = "application/json";
  if (line) output.labels.emplace_back("line", std::to_string(*line->whole()));
  if (ok) output.labels.emplace_back("ok", ok->characters);
  return {Decision::change, {std::move(output)}, {}};
}

// Makes a record of each line of JSON in the payload.

Decision split(const Message &) {
  std::string payload = whole_payload();
  std::string_view rest = payload;
  Decision decision{Decision::split, {}, {}};
  for (size_t number = 1; !rest.empty(); number++) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.empty()) continue;
    if (!Json::read(line)) return rejected("line " + std::to_string(number) + " of the payload isn't JSON");
    Output output;
    output.labels.emplace_back("part", std::to_string(decision.outputs.size()));
    output.payload = line;
    decision.outputs.push_back(std::move(output));
  }
  if (decision.outputs.empty()) decision.kind = Decision::drop;
  return decision;
}

// The functions below copy values into memory that the bindings free.

template <typename T>
T *allocated(size_t count) {
  // For zero bytes malloc may return a null pointer.
  return static_cast<T *>(std::calloc(count + 1, sizeof(T)));
}

Text owned(std::string_view text) {
  Text copy{allocated<uint8_t>(text.size()), text.size()};
  std::memcpy(copy.ptr, text.data(), text.size());
  return copy;
}

Change change_of(const Output &output) {
  Change change{};
  if (output.entry) change.entry = {true, owned(*output.entry)};
  if (output.content_type) change.content_type = {true, owned(*output.content_type)};
  if (output.payload) {
    Text bytes = owned(*output.payload);
    change.payload = {true, {bytes.ptr, bytes.len}};
  }
  change.labels = {allocated<LabelChange>(output.labels.size()), 0};
  for (const auto &[name, value] : output.labels) change.labels.ptr[change.labels.len++] = {owned(name), {true, owned(value)}};
  return change;
}

bool answer(const Decision &decision, Verdict &verdict, Failure &failure) {
  switch (decision.kind) {
    case Decision::keep:
      verdict.tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_KEEP;
      return true;
    case Decision::drop:
      verdict.tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_DROP;
      return true;
    case Decision::change:
      verdict.tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE;
      verdict.val.change = change_of(decision.outputs.front());
      return true;
    case Decision::split:
      verdict.tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_SPLIT;
      verdict.val.split = {allocated<Change>(decision.outputs.size()), 0};
      for (const Output &output : decision.outputs) verdict.val.split.ptr[verdict.val.split.len++] = change_of(output);
      return true;
    case Decision::reject:
      failure.tag = REDUCT_SINK_TRANSFORM_TYPES_FAILURE_REJECT;
      failure.val.reject = owned(decision.reason);
      return false;
  }
  return false;
}

Decision (*chosen)(const Message &) = nullptr;

std::string text_of(const Json &config, std::string_view name) {
  const Json *value = config.find(name);
  return value && value->kind == Json::text ? value->characters : std::string();
}

}  // namespace

// The functions of the contract.

// Called once, before the first record.
extern "C" bool exports_reduct_sink_transform_transformer_configure(Text *text, Text *error) {
  Json config = Json::read(view(text->ptr, text->len)).value_or(Json());
  transform_string_free(text);
  wanted_header = text_of(config, "header");
  wanted_value = text_of(config, "value");
  std::string transform = text_of(config, "transform");
  if (transform == "drop") chosen = drop;
  else if (transform == "label") chosen = label;
  else if (transform == "split") chosen = split;
  else *error = owned("transform: it can be \"drop\", \"label\" or \"split\"");
  return chosen != nullptr;
}

// Decides about one record.
extern "C" bool exports_reduct_sink_transform_transformer_transform(Message *message, Verdict *verdict, Failure *failure) {
  std::memset(verdict, 0, sizeof *verdict);
  bool decided = answer(chosen(*message), *verdict, *failure);
  exports_reduct_sink_transform_transformer_message_free(message);
  return decided;
}
