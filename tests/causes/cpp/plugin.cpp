// Ten mistakes; ../README.md says what the comments mean.

#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

#include "bindings/transform.h"

using Message = exports_reduct_sink_transform_transformer_message_t;
using Verdict = exports_reduct_sink_transform_transformer_verdict_t;
using Failure = exports_reduct_sink_transform_transformer_failure_t;

namespace {

int endless(int depth) {
  volatile int place = depth;  //= recursion: out of bounds memory access
  return place < 0 ? place : endless(place + 1) + endless(place + 2);
}

}  // namespace

extern "C" bool exports_reduct_sink_transform_transformer_configure(transform_string_t *config, transform_string_t *) {
  transform_string_free(config);
  return true;
}

extern "C" bool exports_reduct_sink_transform_transformer_transform(Message *message, Verdict *verdict, Failure *failure) {
  std::memset(verdict, 0, sizeof *verdict);
  auto bytes = message->headers.ptr[0].value.val;
  std::string_view name{reinterpret_cast<const char *>(bytes.ptr), bytes.len};
  volatile int zero = static_cast<int>(message->offset - 7);
  std::printf("making the mistake %.*s\n", static_cast<int>(name.size()), name.data()), std::fflush(stdout);
  if (name == "assertion") assert(zero == 1 && "not one");  //= assertion: plugin.cpp: exports_reduct_sink_transform_transformer_transform: 37
  if (name == "printed") {
    std::fprintf(stderr, "the camera is unknown\n");
    std::abort();  //= printed: the camera is unknown
  }
  if (name == "logged") {
    transform_string_t text;
    transform_string_set(&text, "the lens is unknown");
    reduct_sink_transform_host_log(REDUCT_SINK_TRANSFORM_HOST_LEVEL_ERROR, &text);
    std::abort();  //= logged: the lens is unknown
  }
  if (name == "thrown") std::vector<int>{1, 2, 3}.at(3 + zero);  //= thrown: vector
  if (name == "empty") zero = std::optional<int>{}.value();  //= empty: bad_optional_access was thrown in -fno-exceptions mode
  if (name == "division") zero = 100 / zero;  //= division: integer divide by zero
  if (name == "recursion") zero = endless(zero);
  if (name == "wild_pointer") zero = *reinterpret_cast<volatile int *>(0xfffffff0 + static_cast<unsigned>(zero));  //= wild_pointer: out of bounds memory access
  if (name == "rejected") {
    failure->tag = REDUCT_SINK_TRANSFORM_TYPES_FAILURE_REJECT;
    transform_string_dup(&failure->val.reject, "not today");  //~ rejected: not today
    return false;
  }
  if (name == "illegal_entry") {
    verdict->tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE;
    verdict->val.change.entry.is_some = true;
    transform_string_dup(&verdict->val.change.entry.val, "no entry's name");  //~ illegal_entry: illegal entry
    return true;
  }
  exports_reduct_sink_transform_transformer_message_free(message);
  return true;
}
