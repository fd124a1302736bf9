#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cortex {

/// Writes compact JSON into a string it owns. Numbers round-trip; a non-finite number is `null`.
///
///     JsonWriter w;
///     w.begin_object().key("r2").value(0.95).key("steps").value(120).end_object();
///     puts(w.text().c_str());
class JsonWriter {
 public:
  JsonWriter& begin_object();
  JsonWriter& end_object();
  JsonWriter& begin_array();
  JsonWriter& end_array();
  JsonWriter& key(std::string_view name);
  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(const std::string& text) { return value(std::string_view(text)); }
  JsonWriter& value(bool flag);
  JsonWriter& value(double number);
  JsonWriter& value(float number);
  JsonWriter& value(std::int64_t number);
  JsonWriter& value(std::uint64_t number);
  JsonWriter& value(int number) { return value(static_cast<std::int64_t>(number)); }
  JsonWriter& value(unsigned number) { return value(static_cast<std::uint64_t>(number)); }
  JsonWriter& null();
  /// Text that is already JSON.
  JsonWriter& raw(std::string_view json);

  const std::string& text() const { return text_; }
  void clear() {
    text_.clear();
    comma_ = false;
  }

 private:
  void separate();
  std::string text_;
  bool comma_ = false;  // whether the next key or value follows another
};

}  // namespace cortex
