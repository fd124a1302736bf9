#include "config_file.h"

#include <fmt/format.h>

#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include <algorithm>
#include <filesystem>
#include <string_view>

namespace cortex {
namespace {

/// A value that one flag can take; throws an Error.
std::string plain_value(const toml::node& node, ConfigEntry::Type& type) {
  if (const auto* flag = node.as_boolean()) {
    type = ConfigEntry::Type::boolean;
    return flag->get() ? "true" : "false";
  }
  if (const auto* integer = node.as_integer()) {
    type = ConfigEntry::Type::number;
    return fmt::format("{}", integer->get());
  }
  if (const auto* real = node.as_floating_point()) {
    type = ConfigEntry::Type::number;
    return fmt::format("{}", real->get());
  }
  if (const auto* text = node.as_string()) {
    type = ConfigEntry::Type::text;
    return text->get();
  }
  throw Error{ErrorCode::invalid_argument, "a setting is a truth value, a number, a text or a list",
              ""};
}

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  void read(const toml::table& table, const std::string& prefix) {
    for (const auto& [key, node] : table) {
      const std::string name = prefix + std::string(key.str());
      if (const toml::table* inner = node.as_table())
        read(*inner, name + ".");
      else
        take(name, node);
    }
  }

  std::vector<ConfigEntry> entries;

 private:
  void take(const std::string& name, const toml::node& node) {
    ConfigEntry entry;
    entry.key = name;
    entry.line = static_cast<int>(node.source().begin.line);
    try {
      if (const toml::array* list = node.as_array()) {
        entry.is_list = true;
        for (const toml::node& item : *list) entry.values.push_back(plain_value(item, entry.type));
      } else {
        entry.values.push_back(plain_value(node, entry.type));
      }
    } catch (Error& error) {
      error.message = fmt::format("{}:{}: {}: {}", path_, entry.line, name, error.message);
      throw;
    }
    entries.push_back(std::move(entry));
  }

  const std::string& path_;
};

}  // namespace

Result<std::vector<ConfigEntry>> read_config_file(const std::string& path) {
  if (!std::filesystem::is_regular_file(path))
    return Error{ErrorCode::not_found, path + ": no such file", "config"};
  try {
    const toml::table table = toml::parse_file(path);
    Reader reader(path);
    reader.read(table, "");
    std::stable_sort(reader.entries.begin(), reader.entries.end(),
                     [](const auto& a, const auto& b) { return a.line < b.line; });
    return std::move(reader.entries);
  } catch (const toml::parse_error& error) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}:{}: {}", path, error.source().begin.line, error.description()),
                 "config"};
  } catch (const Error& error) {
    return error;
  }
}

}  // namespace cortex
