// A small JSON reader. It checks what it reads against RFC 8259, apart from surrogate pairs and UTF-8.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  const uint8_t *at, *end;
  int depth;
} json_t;

// Each function reads a value at json->at and moves json->at after it. It returns false if there is something else.

bool json_value(json_t *json);                                    // any value; goes past it
bool json_string(json_t *json, uint8_t *text, size_t *length);    // text has room for as many bytes as are left
bool json_token(json_t *json, char token);                        // one of {}[],: and white space around it
bool json_whole(json_t *json, int64_t *number);                   // a whole number
bool json_word(json_t *json, const char *word);                   // true, false or null
bool json_valid(const uint8_t *text, size_t length);              // nothing but one value
