// The conformance guest in C++; ../README.md says what it does.

#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/transform.h"

using Text = transform_string_t;
using Message = exports_reduct_sink_transform_transformer_message_t;
using Verdict = exports_reduct_sink_transform_transformer_verdict_t;
using Failure = exports_reduct_sink_transform_transformer_failure_t;
using Change = reduct_sink_transform_types_change_t;
using LabelChange = reduct_sink_transform_types_label_change_t;

namespace {

// An output as the commands made it; a label without a value is removed.
struct Output {
  std::optional<std::string> entry, content_type, payload;
  std::optional<uint64_t> timestamp;
  std::vector<std::pair<std::string, std::optional<std::string>>> labels;
};

std::string prefix;
uint64_t calls = 0;

template <typename Bytes>
std::string_view view(const Bytes &bytes) {
  return {reinterpret_cast<const char *>(bytes.ptr), bytes.len};
}

// Memory that the bindings free.
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

void log(reduct_sink_transform_host_level_t level, std::string_view text) {
  Text copy = owned(text);
  reduct_sink_transform_host_log(level, &copy);
  transform_string_free(&copy);
}

[[noreturn]] void fail(std::string_view text) {
  log(REDUCT_SINK_TRANSFORM_HOST_LEVEL_ERROR, text);
  __builtin_trap();
}

// The number that the text begins with, which is taken from it with the space behind it.
uint64_t number(std::string_view &text) {
  uint64_t sum = 0;
  while (!text.empty() && text.front() != ' ') {
    sum = sum * 10 + static_cast<uint64_t>(text.front() - '0');
    text.remove_prefix(1);
  }
  if (!text.empty()) text.remove_prefix(1);
  return sum;
}

// A function of the host that answers with bytes, which the caller has to free.
template <typename Bytes>
std::string answer_of(void (*function)(Bytes *), void (*release)(Bytes *)) {
  Bytes bytes;
  function(&bytes);
  std::string copy{view(bytes)};
  release(&bytes);
  return copy;
}

std::string told(std::string_view what, const Message &message) {
  if (what == "topic") return std::string{view(message.topic)};
  if (what == "partition") return std::to_string(message.partition);
  if (what == "offset") return std::to_string(message.offset);
  if (what == "timestamp") return std::to_string(message.timestamp);
  if (what == "payload-size") return std::to_string(message.payload_size);
  if (what == "count") return std::to_string(calls);
  if (what == "key") return message.key.is_some ? "some:" + std::string{view(message.key.val)} : "none";
  if (what == "payload") return answer_of(reduct_sink_transform_host_payload, transform_list_u8_free);
  if (what == "entry") return answer_of(reduct_sink_transform_host_entry, transform_string_free);
  if (what == "content-type") return answer_of(reduct_sink_transform_host_content_type, transform_string_free);
  std::string lines;
  if (what == "headers") {
    for (size_t at = 0; at < message.headers.len; at++) {
      const auto &[key, value] = message.headers.ptr[at];
      lines += view(key);
      if (value.is_some) lines.append("=").append(view(value.val));
      lines += '\n';
    }
    return lines;
  }
  if (what == "labels") {
    reduct_sink_transform_host_list_label_t labels;
    reduct_sink_transform_host_labels(&labels);
    for (size_t at = 0; at < labels.len; at++)
      lines.append(view(labels.ptr[at].name)).append("=").append(view(labels.ptr[at].value)).append("\n");
    reduct_sink_transform_host_list_label_free(&labels);
    return lines;
  }
  fail("there is no such thing to tell");
}

// One command about an output; a failure's tag where the record has to fail.
std::optional<uint8_t> run(std::string_view command, std::string_view value, const Message &message, Output &output) {
  if (command == "entry") output.entry = value;
  else if (command == "content-type") output.content_type = value;
  else if (command == "timestamp") output.timestamp = number(value);
  else if (command == "payload") output.payload = value;
  else if (command == "fill") output.payload = std::string(number(value), 'x');
  else if (command == "label") {
    size_t equals = value.find('=');
    output.labels.emplace_back(value.substr(0, equals), value.substr(equals + 1));
  } else if (command == "unlabel") output.labels.emplace_back(value, std::nullopt);
  else if (command == "labels") {
    for (uint64_t at = 0, count = number(value); at < count; at++) output.labels.emplace_back("l" + std::to_string(at), "v");
  } else if (command == "reject") return REDUCT_SINK_TRANSFORM_TYPES_FAILURE_REJECT;
  else if (command == "retry") return REDUCT_SINK_TRANSFORM_TYPES_FAILURE_RETRY;
  else if (command == "trap") fail("trapped as told");
  else if (command == "loop") for (volatile bool on = true; on;) {}
  else if (command == "grow") {
    for (void *more; (more = std::malloc(1 << 20));) *static_cast<volatile char *>(more) = 1;
    fail("there is no more memory");
  } else if (command == "log") log(REDUCT_SINK_TRANSFORM_HOST_LEVEL_INFO, value);
  else if (command == "tell") output.payload = output.payload.value_or("") + told(value, message);
  else if (command == "read") {
    uint64_t offset = number(value), length = number(value);
    transform_list_u8_t part;
    reduct_sink_transform_host_read(offset, length, &part);
    output.payload = output.payload.value_or("").append(view(part));
    transform_list_u8_free(&part);
  } else output.labels.emplace_back(command, std::string{value});
  return std::nullopt;
}

Change change_of(const Output &output) {
  Change change{};
  if (output.entry) change.entry = {true, owned(*output.entry)};
  if (output.content_type) change.content_type = {true, owned(*output.content_type)};
  if (output.timestamp) change.timestamp = {true, *output.timestamp};
  if (output.payload) {
    Text bytes = owned(*output.payload);
    change.payload = {true, {bytes.ptr, bytes.len}};
  }
  change.labels = {allocated<LabelChange>(output.labels.size()), 0};
  for (const auto &[name, value] : output.labels)
    change.labels.ptr[change.labels.len++] = {owned(name), {value.has_value(), value ? owned(*value) : Text{}}};
  return change;
}

// False on a failure.
bool decide(const Message &message, Verdict &verdict, Failure &failure) {
  std::vector<Output> outputs(1);
  bool split = false, touched = false, dropped = false;
  calls++;
  for (size_t at = 0; at < message.headers.len; at++) {
    const auto &header = message.headers.ptr[at];
    std::string_view command = view(header.key), value = header.value.is_some ? view(header.value.val) : std::string_view{};
    if (command.substr(0, prefix.size()) != prefix) continue;
    command.remove_prefix(prefix.size());
    touched |= command != "keep" && command != "log";
    dropped |= command == "drop";
    if (command == "part" || command == "parts") {
      size_t count = command == "part" ? 1 : number(value);
      if (!split) outputs.clear();
      split = true;
      outputs.resize(outputs.size() + count);
    } else if (command != "keep" && command != "drop" && command != "change") {
      auto failed = run(command, value, message, outputs.back());
      if (!failed) continue;
      failure.tag = *failed;
      failure.val.reject = owned(value);
      return false;
    }
  }
  if (dropped) verdict.tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_DROP;
  else if (split) {
    verdict.tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_SPLIT;
    verdict.val.split = {allocated<Change>(outputs.size()), 0};
    for (const Output &output : outputs) verdict.val.split.ptr[verdict.val.split.len++] = change_of(output);
  } else if (touched) {
    verdict.tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE;
    verdict.val.change = change_of(outputs.front());
  } else verdict.tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_KEEP;
  return true;
}

// What the configuration's JSON has for this key, if that is text without escapes.
std::optional<std::string> text_of(std::string_view config, std::string_view key) {
  size_t at = config.find(key);
  if (at == std::string_view::npos || (at = config.find(':', at)) == std::string_view::npos) return std::nullopt;
  if ((at = config.find('"', at)) == std::string_view::npos) return std::nullopt;
  return std::string{config.substr(at + 1, config.find('"', at + 1) - at - 1)};
}

}  // namespace

extern "C" bool exports_reduct_sink_transform_transformer_configure(Text *text, Text *error) {
  std::string config{view(*text)};
  transform_string_free(text);
  if (config.find("\"trap\"") != std::string::npos) fail("trapped as told");
  prefix = text_of(config, "\"prefix\"").value_or("");
  auto refusal = text_of(config, "\"refuse\"");
  if (refusal) *error = owned(*refusal);
  return !refusal;
}

extern "C" bool exports_reduct_sink_transform_transformer_transform(Message *message, Verdict *verdict, Failure *failure) {
  std::memset(verdict, 0, sizeof *verdict);
  bool good = decide(*message, *verdict, *failure);
  exports_reduct_sink_transform_transformer_message_free(message);
  return good;
}
