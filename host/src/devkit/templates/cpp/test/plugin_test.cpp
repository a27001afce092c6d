// Tests without WebAssembly: sh test/run

#undef NDEBUG
#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "../bindings/transform.h"
#include "host.h"

using Text = transform_string_t;
using Message = exports_reduct_sink_transform_transformer_message_t;
using Verdict = exports_reduct_sink_transform_transformer_verdict_t;
using Failure = exports_reduct_sink_transform_transformer_failure_t;
using Header = reduct_sink_transform_types_header_t;

namespace {

Text owned(std::string_view text) {
  Text copy;
  transform_string_dup_n(&copy, text.data(), text.size());
  return copy;
}

std::string_view view(Text text) { return {reinterpret_cast<const char *>(text.ptr), text.len}; }

// Configures the plugin. Returns its error; none if it accepts the settings.
std::optional<std::string> configure(std::string_view settings) {
  Text config = owned(settings), error{};
  if (exports_reduct_sink_transform_transformer_configure(&config, &error)) return std::nullopt;
  std::string problem{view(error)};
  transform_string_free(&error);
  return problem;
}

// The plugin's verdict about a record with this payload, and with a header `type` if one is given.
Verdict decide(std::string_view settings, std::optional<std::string_view> type, std::string_view payload) {
  assert(!configure(settings));
  Message message{};
  message.topic = owned("topic");
  if (type) {
    Text value = owned(*type);
    message.headers = {static_cast<Header *>(std::calloc(1, sizeof(Header))), 1};
    message.headers.ptr[0] = {owned("type"), {true, {value.ptr, value.len}}};
  }
  message.payload_size = payload.size();
  host_record.payload = reinterpret_cast<const uint8_t *>(payload.data());
  host_record.payload_size = payload.size();
  Verdict verdict;
  Failure failure;
  assert(exports_reduct_sink_transform_transformer_transform(&message, &verdict, &failure));
  return verdict;
}

void heartbeats_are_dropped() {
  assert(decide("{}", "heartbeat", "").tag == REDUCT_SINK_TRANSFORM_TYPES_VERDICT_DROP);
}

void sizes_become_labels() {
  for (auto [payload, size_class] : {std::pair{"1234", "small"}, std::pair{"12345", "large"}}) {
    Verdict verdict = decide(R"({"large_bytes": 5})", std::nullopt, payload);
    assert(verdict.tag == REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE && verdict.val.change.labels.len == 1);
    assert(view(verdict.val.change.labels.ptr[0].name) == "size_class");
    assert(view(verdict.val.change.labels.ptr[0].value.val) == size_class);
    exports_reduct_sink_transform_transformer_verdict_free(&verdict);
  }
}

void an_unknown_key_is_refused() {
  auto problem = configure(R"({"large": 5})");
  assert(problem && problem->find("large_bytes") != std::string::npos);
}

}  // namespace

int main() {
  heartbeats_are_dropped();
  sizes_become_labels();
  an_unknown_key_is_refused();
  std::puts("3 tests passed");
}
