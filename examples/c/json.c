#include "json.h"

#include <string.h>

enum { MAX_DEPTH = 100 };

static void space(json_t *json) {
  while (json->at < json->end && strchr(" \t\r\n", *json->at) && *json->at) json->at++;
}

static bool digits(json_t *json) {
  const uint8_t *start = json->at;
  while (json->at < json->end && *json->at >= '0' && *json->at <= '9') json->at++;
  return json->at > start;
}

static bool byte(json_t *json, char wanted) {
  if (json->at == json->end || *json->at != wanted) return false;
  json->at++;
  return true;
}

static bool number(json_t *json) {
  byte(json, '-');
  if (!byte(json, '0') && !digits(json)) return false;
  if (byte(json, '.') && !digits(json)) return false;
  if (!byte(json, 'e') && !byte(json, 'E')) return true;
  if (!byte(json, '+')) byte(json, '-');
  return digits(json);
}

static bool hex4(json_t *json, uint32_t *code) {
  *code = 0;
  for (int i = 0; i < 4; i++, json->at++) {
    if (json->at == json->end) return false;
    uint8_t c = *json->at;
    if (c >= '0' && c <= '9') *code = *code * 16 + c - '0';
    else if ((c | 32) >= 'a' && (c | 32) <= 'f') *code = *code * 16 + (c | 32) - 'a' + 10;
    else return false;
  }
  return true;
}

static size_t utf8(uint32_t code, uint8_t *out) {
  if (code < 0x80) return out[0] = code, 1;
  if (code < 0x800) return out[0] = 0xc0 | code >> 6, out[1] = 0x80 | (code & 63), 2;
  out[1] = 0x80 | (code >> 6 & 63), out[2] = 0x80 | (code & 63);
  return out[0] = 0xe0 | code >> 12, 3;
}

bool json_token(json_t *json, char token) {
  space(json);
  if (!byte(json, token)) return false;
  space(json);
  return true;
}

bool json_word(json_t *json, const char *word) {
  size_t length = strlen(word);
  if ((size_t)(json->end - json->at) < length || memcmp(json->at, word, length) != 0) return false;
  json->at += length;
  return true;
}

bool json_string(json_t *json, uint8_t *text, size_t *length) {
  static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
  size_t n = 0;
  if (!byte(json, '"')) return false;
  while (json->at < json->end && *json->at >= ' ') {
    uint8_t c = *json->at++, bytes[4] = {c};
    size_t count = 1;
    if (c == '"') {
      if (length) *length = n;
      return true;
    }
    if (c == '\\') {
      if (json->at == json->end) return false;
      c = *json->at++;
      const char *escape = c ? strchr(escapes, c) : NULL;
      uint32_t code;
      if (escape) bytes[0] = meanings[escape - escapes];
      else if (c == 'u' && hex4(json, &code)) count = utf8(code, bytes);
      else return false;
    }
    if (text) memcpy(text + n, bytes, count);
    n += count;
  }
  return false;
}

bool json_whole(json_t *json, int64_t *value) {
  const uint8_t *start = json->at;
  if (!number(json)) return false;
  bool negative = *start == '-';
  int64_t sum = 0;
  for (const uint8_t *at = start + negative; at < json->at; at++) {
    if (*at < '0' || *at > '9' || __builtin_mul_overflow(sum, 10, &sum)) return false;
    int64_t digit = *at - '0';
    if (__builtin_add_overflow(sum, negative ? -digit : digit, &sum)) return false;
  }
  *value = sum;
  return true;
}

static bool members(json_t *json, char end, bool named) {
  if (json_token(json, end)) return true;
  do {
    if (named && !(json_string(json, NULL, NULL) && json_token(json, ':'))) return false;
    if (!json_value(json)) return false;
  } while (json_token(json, ','));
  return json_token(json, end);
}

bool json_value(json_t *json) {
  if (json->depth >= MAX_DEPTH) return false;
  json->depth++;
  space(json);
  bool good;
  if (json_token(json, '{')) good = members(json, '}', true);
  else if (json_token(json, '[')) good = members(json, ']', false);
  else if (json->at < json->end && *json->at == '"') good = json_string(json, NULL, NULL);
  else good = json_word(json, "true") || json_word(json, "false") || json_word(json, "null") || number(json);
  json->depth--;
  space(json);
  return good;
}

bool json_valid(const uint8_t *text, size_t length) {
  json_t json = {text, text + length, 0};
  return json_value(&json) && json.at == json.end;
}
