// A small reader of JSON, enough for a flat configuration of texts and whole numbers.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

class Json {
 public:
  explicit Json(std::string_view text) : rest(text) {}

  // Steps over this character and returns true, if it comes next.
  bool token(char wanted) {
    space();
    if (rest.empty() || rest.front() != wanted) return false;
    rest.remove_prefix(1);
    return true;
  }

  // Reads a text; none if something else comes next. The escape \u is left as it is; all others are resolved.
  std::optional<std::string> text() {
    if (!token('"')) return std::nullopt;
    std::string text;
    while (!rest.empty()) {
      char next = rest.front();
      rest.remove_prefix(1);
      if (next == '"') return text;
      if (next == '\\' && !rest.empty() && rest.front() != 'u') {
        next = unescaped(rest.front());
        rest.remove_prefix(1);
      }
      text.push_back(next);
    }
    return std::nullopt;
  }

  // Reads a whole number from 0 on; none if something else comes next.
  std::optional<uint64_t> whole() {
    space();
    uint64_t number = 0;
    size_t length = 0;
    while (length < rest.size() && rest[length] >= '0' && rest[length] <= '9' && length < 19)
      number = number * 10 + static_cast<uint64_t>(rest[length++] - '0');
    if (length == 0 || (length < rest.size() && std::string_view(".eE0123456789").find(rest[length]) != std::string_view::npos))
      return std::nullopt;
    rest.remove_prefix(length);
    return number;
  }

 private:
  void space() {
    while (!rest.empty() && std::string_view(" \t\r\n").find(rest.front()) != std::string_view::npos) rest.remove_prefix(1);
  }

  static char unescaped(char escape) {
    switch (escape) {
      case 'n': return '\n';
      case 't': return '\t';
      case 'r': return '\r';
      case 'b': return '\b';
      case 'f': return '\f';
      default: return escape;
    }
  }

  std::string_view rest;
};
