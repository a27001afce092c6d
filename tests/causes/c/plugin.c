// Ten mistakes; ../README.md says what the comments mean.

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/transform.h"

typedef exports_reduct_sink_transform_transformer_message_t message_t;
typedef exports_reduct_sink_transform_transformer_verdict_t verdict_t;
typedef exports_reduct_sink_transform_transformer_failure_t failure_t;

bool exports_reduct_sink_transform_transformer_configure(transform_string_t *config, transform_string_t *error) {
  (void)error;
  transform_string_free(config);
  return true;
}

static int endless(volatile int depth) { return endless(depth + 1) + endless(depth + 2); } //= recursion: out of bounds memory access

bool exports_reduct_sink_transform_transformer_transform(message_t *message, verdict_t *verdict, failure_t *failure) {
  memset(verdict, 0, sizeof *verdict);
  transform_list_u8_t name = message->headers.ptr[0].value.val;
  volatile int zero = (int)(message->offset - 7);
  printf("making the mistake %.*s\n", (int)name.len, name.ptr), fflush(stdout);
#define IS(mistake) (name.len == strlen(mistake) && memcmp(name.ptr, mistake, name.len) == 0)
  if (IS("assertion")) assert(zero == 1 && "not one"); //= assertion: plugin.c: exports_reduct_sink_transform_transformer_transform: 28
  if (IS("printed")) {
    fprintf(stderr, "the camera is unknown\n");
    abort(); //= printed: the camera is unknown
  }
  if (IS("logged")) {
    transform_string_t text;
    transform_string_set(&text, "the lens is unknown");
    reduct_sink_transform_host_log(REDUCT_SINK_TRANSFORM_HOST_LEVEL_ERROR, &text);
    abort(); //= logged: the lens is unknown
  }
  if (IS("division")) zero = 100 / zero; //= division: integer divide by zero
  if (IS("recursion")) zero = endless(zero);
  if (IS("wild_pointer")) zero = *(volatile int *)(0xfffffff0 + (unsigned)zero); //= wild_pointer: out of bounds memory access
  if (IS("unreachable")) __builtin_trap(); //= unreachable: unreachable
  if (IS("rejected")) {
    failure->tag = REDUCT_SINK_TRANSFORM_TYPES_FAILURE_REJECT;
    transform_string_dup(&failure->val.reject, "not today"); //~ rejected: not today
    return false;
  }
  if (IS("illegal_entry")) {
    verdict->tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE;
    verdict->val.change.entry.is_some = true;
    transform_string_dup(&verdict->val.change.entry.val, "no entry's name"); //~ illegal_entry: illegal entry
    return true;
  }
  if (IS("wild_answer")) {
    verdict->tag = REDUCT_SINK_TRANSFORM_TYPES_VERDICT_CHANGE;
    verdict->val.change.payload.is_some = true;
    verdict->val.change.payload.val = (transform_list_u8_t){(uint8_t *)0xfffffff0, 100}; //~ wild_answer: out of bounds
    return true;
  }
  exports_reduct_sink_transform_transformer_message_free(message);
  return true;
}
