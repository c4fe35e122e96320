// The part of JSON that a schema of lightning_mods.export uses, read into a tree. A program that has a JSON library
// (nlohmann-json, simdjson) uses that; the wheel of torch brings none, and this example needs nothing but the wheel.
#pragma once

#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

struct Json {
  enum Kind { Null, Bool, Number, Text, List, Object } kind = Null;
  double number = 0;  // also true (1) and false (0)
  std::string text;
  std::vector<Json> list;
  std::map<std::string, Json> object;

  bool has(const std::string& key) const { return object.count(key) > 0; }

  const Json& operator[](const std::string& key) const {
    auto found = object.find(key);
    if (found == object.end()) throw std::runtime_error("the schema has no \"" + key + "\"");
    return found->second;
  }
};

class JsonReader {
 public:
  explicit JsonReader(const std::string& source) : source_(source) {}

  Json read() {
    Json value = any();
    skip();
    if (at_ != source_.size()) fail();
    return value;
  }

 private:
  const std::string& source_;
  size_t at_ = 0;

  [[noreturn]] void fail() const { throw std::runtime_error("the schema is no JSON at byte " + std::to_string(at_)); }

  void skip() {
    while (at_ < source_.size() && (source_[at_] == ' ' || source_[at_] == '\n' || source_[at_] == '\t' || source_[at_] == '\r')) ++at_;
  }

  char next() {
    skip();
    if (at_ >= source_.size()) fail();
    return source_[at_];
  }

  bool took(char wanted) {
    if (next() != wanted) return false;
    ++at_;
    return true;
  }

  void take(char wanted) {
    if (!took(wanted)) fail();
  }

  Json word(const std::string& spelt, Json::Kind kind, double number) {
    if (source_.compare(at_, spelt.size(), spelt) != 0) fail();
    at_ += spelt.size();
    Json value;
    value.kind = kind;
    value.number = number;
    return value;
  }

  Json any() {
    Json value;
    switch (next()) {
      case '{':
        ++at_;
        value.kind = Json::Object;
        if (took('}')) return value;
        do {
          if (next() != '"') fail();
          std::string key = string();
          take(':');
          value.object[key] = any();
        } while (took(','));
        take('}');
        return value;
      case '[':
        ++at_;
        value.kind = Json::List;
        if (took(']')) return value;
        do value.list.push_back(any());
        while (took(','));
        take(']');
        return value;
      case '"':
        value.kind = Json::Text;
        value.text = string();
        return value;
      case 't': return word("true", Json::Bool, 1);
      case 'f': return word("false", Json::Bool, 0);
      case 'n': return word("null", Json::Null, 0);
    }
    const char* start = source_.c_str() + at_;
    char* end = nullptr;
    value.kind = Json::Number;
    value.number = std::strtod(start, &end);
    if (end == start) fail();
    at_ += end - start;
    return value;
  }

  std::string string() {
    std::string out;
    for (++at_; at_ < source_.size() && source_[at_] != '"'; ++at_) {
      if (source_[at_] != '\\') {
        out += source_[at_];
        continue;
      }
      if (++at_ >= source_.size()) fail();
      switch (source_[at_]) {
        case 'n': out += '\n'; break;
        case 't': out += '\t'; break;
        case 'r': out += '\r'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'u':  // only control characters are written so; all others stand as UTF-8
          out += static_cast<char>(std::stoi(source_.substr(at_ + 1, 4), nullptr, 16));
          at_ += 4;
          break;
        default: out += source_[at_];
      }
    }
    take('"');
    return out;
  }
};
