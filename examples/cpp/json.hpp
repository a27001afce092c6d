// A small reader of JSON. It checks what it reads against RFC 8259, apart from surrogate pairs and UTF-8.

#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct Member;

// A value of JSON.
struct Json {
  enum Kind { null, boolean, number, text, list, object };

  Kind kind = null;
  // The characters of a text; for a number, a boolean or null, the way it is written.
  std::string characters;
  // The members of a list or an object; in a list their names are empty.
  std::vector<Member> members;

  // Reads a text; returns nothing if it isn't one value with white space around it.
  static std::optional<Json> read(std::string_view text);

  // The last member with this name; nothing if this isn't an object, or has no such member, or the member is null.
  const Json *find(std::string_view name) const;

  // The value as a whole number; nothing if it isn't one, or needs more than 64 bits.
  std::optional<int64_t> whole() const {
    int64_t value = 0;
    const char *begin = characters.data(), *end = begin + characters.size();
    auto [rest, problem] = std::from_chars(begin, end, value);
    if (kind != number || problem != std::errc() || rest != end) return std::nullopt;
    return value;
  }
};

struct Member {
  std::string name;
  Json value;
};

inline const Json *Json::find(std::string_view name) const {
  for (auto member = members.rbegin(); kind == object && member != members.rend(); ++member)
    if (member->name == name) return member->value.kind == null ? nullptr : &member->value;
  return nullptr;
}

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : rest(text) {}

  bool whole_text(Json &value) { return read(value) && rest.empty(); }

 private:
  // The depth is limited, because a plugin's stack is small.
  static constexpr int max_depth = 64;

  std::string_view rest;
  int depth = 0;

  bool read(Json &value) {
    if (depth >= max_depth) return false;
    depth++;
    space();
    bool good = false;
    if (token('{')) good = members(value, Json::object, '}');
    else if (token('[')) good = members(value, Json::list, ']');
    else if (!rest.empty() && rest.front() == '"') good = text(value.characters), value.kind = Json::text;
    else good = word(value, "null", Json::null) || word(value, "true", Json::boolean) || word(value, "false", Json::boolean) || number(value);
    depth--;
    space();
    return good;
  }

  bool members(Json &value, Json::Kind kind, char end) {
    value.kind = kind;
    space();
    if (token(end)) return true;
    do {
      Member &member = value.members.emplace_back();
      space();
      if (kind == Json::object && !(text(member.name) && (space(), token(':')))) return false;
      if (!read(member.value)) return false;
    } while (token(','));
    return token(end);
  }

  bool text(std::string &text) {
    static constexpr std::string_view escapes = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    if (!token('"')) return false;
    while (!rest.empty() && static_cast<unsigned char>(rest.front()) >= ' ') {
      char next = take();
      if (next == '"') return true;
      if (next == '\\') {
        if (rest.empty()) return false;
        char escape = take();
        if (escape == 'u') {
          if (!code_unit(text)) return false;
          continue;
        }
        size_t at = escapes.find(escape);
        if (at == std::string_view::npos) return false;
        next = meanings[at];
      }
      text.push_back(next);
    }
    return false;
  }

  bool code_unit(std::string &text) {
    unsigned code = 0;
    if (rest.size() < 4) return false;
    auto [end, problem] = std::from_chars(rest.data(), rest.data() + 4, code, 16);
    if (problem != std::errc() || end != rest.data() + 4) return false;
    rest.remove_prefix(4);
    if (code >= 0x800) {
      text.push_back(static_cast<char>(0xe0 | code >> 12));
      text.push_back(static_cast<char>(0x80 | (code >> 6 & 63)));
    } else if (code >= 0x80) {
      text.push_back(static_cast<char>(0xc0 | code >> 6));
    }
    text.push_back(static_cast<char>(code < 0x80 ? code : 0x80 | (code & 63)));
    return true;
  }

  bool word(Json &value, std::string_view word, Json::Kind kind) {
    if (!rest.starts_with(word)) return false;
    rest.remove_prefix(word.size());
    value.kind = kind;
    value.characters = word;
    return true;
  }

  bool number(Json &value) {
    std::string_view begin = rest;
    token('-');
    if (!token('0') && !digits()) return false;
    if (token('.') && !digits()) return false;
    if (token('e') || token('E')) {
      if (!token('+')) token('-');
      if (!digits()) return false;
    }
    value.kind = Json::number;
    value.characters = begin.substr(0, begin.size() - rest.size());
    return true;
  }

  bool digits() {
    size_t count = 0;
    while (count < rest.size() && rest[count] >= '0' && rest[count] <= '9') count++;
    rest.remove_prefix(count);
    return count > 0;
  }

  bool token(char wanted) {
    if (rest.empty() || rest.front() != wanted) return false;
    rest.remove_prefix(1);
    return true;
  }

  char take() {
    char next = rest.front();
    rest.remove_prefix(1);
    return next;
  }

  void space() {
    while (token(' ') || token('\t') || token('\r') || token('\n')) {
    }
  }
};

inline std::optional<Json> Json::read(std::string_view text) {
  Json value;
  if (!JsonReader(text).whole_text(value)) return std::nullopt;
  return value;
}
