#pragma once

#include <cortex/result.h>

#include <string>
#include <vector>

namespace cortex {

/// A setting as a configuration file gives it.
struct ConfigEntry {
  enum class Type { boolean, number, text };

  std::string key;  ///< dotted, e.g. "serve.port"
  Type type = Type::text;
  bool is_list = false;
  std::vector<std::string> values;  ///< as a flag takes them; one, unless it is a list
  int line = 0;
};

/// The settings of a TOML file in the order of its keys. not_found; unsupported: a build without
/// TOML; invalid_argument: what is not TOML or no setting can be (a date, a table in a list), with
/// file and line.
Result<std::vector<ConfigEntry>> read_config_file(const std::string& path);

}  // namespace cortex
