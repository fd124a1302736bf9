#include "configuration.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "config_file.h"

namespace cortex {
namespace {

constexpr std::string_view kPrefix = "CORTEX_";
/// A variable this near to a setting's is taken for a slip of the pen.
constexpr std::size_t kSlip = 2;

std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({replaced, row[j] + 1, row[j - 1] + 1}));
    }
  }
  return row.back();
}

/// `text` as a string of TOML.
std::string toml_string(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      quoted += fmt::format("\\{}", c);
    else if (byte < 0x20 || byte == 0x7f)
      quoted += fmt::format("\\u{:04x}", byte);
    else
      quoted += c;
  }
  return quoted + '"';
}

std::string replaced(std::string text, char from, char to) {
  std::replace(text.begin(), text.end(), from, to);
  return text;
}

/// A flag, and what its key was given last.
struct Setting {
  CLI::Option* option = nullptr;
  std::string key;
  std::vector<std::string> variables;
  std::vector<std::string> values = {};
  std::string origin = {};  ///< of `values`; empty: there are none

  bool is_flag() const { return option->get_expected_max() == 0; }
  bool is_list() const { return option->get_expected_max() > 1; }
  bool is_number() const {
    const std::string type = option->get_type_name();
    return type.starts_with("INT") || type.starts_with("UINT") || type.starts_with("FLOAT");
  }
  std::string_view section() const { return std::string_view(key).substr(0, key.find('.')); }
  std::string_view name() const { return std::string_view(key).substr(key.find('.') + 1); }
  std::string as_toml(const std::string& value) const;
};

std::string Setting::as_toml(const std::string& value) const {
  if (is_flag()) return CLI::detail::to_flag_value(value) > 0 ? "true" : "false";
  if (!is_number()) return toml_string(value);
  // As TOML writes numbers: no ".5", no "+1".
  if (value.find_first_not_of("-0123456789") == std::string::npos) return value;
  return fmt::format("{}", std::strtod(value.c_str(), nullptr));
}

class Configuration {
 public:
  Configuration(CLI::App& command, ConfigSchema schema)
      : command_(command), schema_(std::move(schema)) {
    for (CLI::Option* option : command.get_options()) {
      if (!option->get_configurable() || option->get_lnames().empty()) continue;
      if (option == command.get_help_ptr()) continue;
      const std::string& flag = option->get_lnames().front();
      const auto group = schema_.sections.find(option->get_group());
      const std::string section = group == schema_.sections.end() ? schema_.section : group->second;
      Setting setting{
          .option = option, .key = section + "." + replaced(flag, '-', '_'), .variables = {}};
      for (const auto& [variable, name] : schema_.variables)
        if (name == flag) setting.variables.push_back(variable);
      std::string variable(kPrefix);
      for (const char c : replaced(flag, '-', '_'))
        variable += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      setting.variables.push_back(variable);
      settings_.push_back(std::move(setting));
    }
  }

  /// `self`: this, kept as long as the flags that call it.
  void add_flags(const std::shared_ptr<Configuration>& self) {
    files_ = command_
                 .add_option_function<std::vector<std::string>>(
                     "--config", [self](const auto& /*files*/) { self->apply(); },
                     "TOML file of settings; several may be given, later ones win")
                 ->type_name("FILE")
                 ->allow_extra_args(false)
                 ->configurable(false)
                 // Its callback looks at all sources, whether or not there are files.
                 ->force_callback()
                 ->group(kGroup);
    sets_ = command_.add_option("--set", set_values_, "One setting, e.g. " + example())
                ->type_name("KEY=VALUE")
                ->allow_extra_args(false)
                ->configurable(false)
                ->group(kGroup);
    print_ = command_
                 .add_flag("--print-config", print_config_,
                           "Print all settings as TOML, each with where it came from, and end")
                 ->configurable(false)
                 ->group(kGroup);
  }

 private:
  static constexpr const char* kGroup = "Configuration";

  std::string example() const { return settings_.front().key + "=..."; }

  void apply() {
    if (!command_.parsed() || command_.get_help_ptr()->count() > 0) return;
    for (const std::string& path : files_->results())
      if (!path.empty()) take_file(path);
    take_environment();
    for (const std::string& text : sets_->results()) take_set(text);
    for (Setting& setting : settings_) give(setting);
    if (print_->count() > 0) {
      print();
      throw CLI::Success();
    }
  }

  void take_file(const std::string& path) {
    const auto entries = read_config_file(path);
    if (!entries) throw CLI::ValidationError("--config", entries.error().message);
    for (const ConfigEntry& entry : *entries) {
      if (schema_.others.contains(entry.key.substr(0, entry.key.find('.')))) continue;
      const std::string place = fmt::format("{}:{}", path, entry.line);
      Setting& setting = find(entry.key, place);
      check_type(setting, entry, place);
      setting.values = entry.values;
      setting.origin = place;
    }
  }

  static void check_type(const Setting& setting, const ConfigEntry& entry,
                         const std::string& place) {
    using Type = ConfigEntry::Type;
    const auto refuse = [&](std::string_view wanted) {
      throw CLI::ValidationError(place, fmt::format("{} is {}", entry.key, wanted));
    };
    if (entry.is_list && !setting.is_list()) refuse("one value, not a list");
    if (entry.values.empty()) return;
    if (setting.is_flag() != (entry.type == Type::boolean))
      refuse(setting.is_flag() ? "true or false" : "not a truth value");
    if (setting.is_number() && entry.type != Type::number) refuse("a number, not a text");
  }

  void take_environment() {
    std::set<std::string, std::less<>> known;
    for (Setting& setting : settings_) {
      // The first name that is set: a published one goes before our own.
      bool taken = false;
      for (const std::string& variable : setting.variables) {
        known.insert(variable);
        const char* value = std::getenv(variable.c_str());
        if (taken || value == nullptr || *value == '\0') continue;
        setting.values = {value};
        setting.origin = "environment " + variable;
        taken = true;
      }
    }
    for (char** at = environ; *at != nullptr; ++at) {
      const std::string_view text(*at);
      const std::string_view name = text.substr(0, text.find('='));
      if (!name.starts_with(kPrefix) || known.contains(name)) continue;
      for (const std::string& variable : known)
        if (distance(name, variable) <= kSlip)
          std::cerr << fmt::format("{}: {} in the environment is no setting: is {} meant?\n",
                                   command_.get_parent()->get_name(), name, variable);
    }
  }

  void take_set(const std::string& text) {
    const auto equals = text.find('=');
    if (equals == std::string::npos)
      throw CLI::ValidationError("--set", fmt::format("{}: say KEY=VALUE", text));
    Setting& setting = find(text.substr(0, equals), "--set");
    // Like a flag, one that may be given several times adds up.
    if (setting.origin != "--set" || !setting.is_list()) setting.values.clear();
    setting.values.push_back(text.substr(equals + 1));
    setting.origin = "--set";
  }

  Setting& find(const std::string& key, const std::string& place) {
    const Setting* nearest = nullptr;
    std::size_t least = 0;
    for (Setting& setting : settings_) {
      if (setting.key == key) return setting;
      const std::size_t far =
          distance(key, key.find('.') == std::string::npos ? setting.name() : setting.key);
      if (nearest == nullptr || far < least) {
        nearest = &setting;
        least = far;
      }
    }
    throw CLI::ValidationError(place, fmt::format("{} is no setting of {}; the nearest is {}", key,
                                                  command_.get_name(), nearest->key));
  }

  /// To the flag, unless the command line gave it.
  static void give(Setting& setting) {
    if (setting.option->count() > 0) {
      setting.values = setting.option->results();
      setting.origin = "flag";
      return;
    }
    if (setting.origin.empty() || setting.values.empty()) return;
    try {
      setting.option->add_result(setting.values);
      setting.option->run_callback();
    } catch (const CLI::ParseError& error) {
      throw CLI::ValidationError(setting.origin, error.what());
    }
  }

  void print() const {
    const auto preset = schema_.preset ? schema_.preset() : std::map<std::string, std::string>();
    std::vector<std::string_view> sections;
    for (const Setting& setting : settings_)
      if (std::find(sections.begin(), sections.end(), setting.section()) == sections.end())
        sections.push_back(setting.section());
    for (const std::string_view section : sections) {
      std::cout << (section == sections.front() ? "[" : "\n[") << section << "]\n";
      for (const Setting& setting : settings_)
        if (setting.section() == section) print(setting, preset);
    }
  }

  void print(const Setting& setting, const std::map<std::string, std::string>& preset) const {
    std::string value;
    std::string origin = setting.origin;
    if (setting.is_list() && !setting.values.empty()) {
      for (const std::string& item : setting.values)
        value += (value.empty() ? "" : ", ") + setting.as_toml(item);
      value = "[" + value + "]";
    } else if (!setting.values.empty()) {
      value = setting.as_toml(setting.values.back());
    } else if (const auto said = preset.find(setting.key); said != preset.end()) {
      value = setting.as_toml(said->second);
      origin = "preset";
    } else if (!setting.option->get_default_str().empty()) {
      value = setting.as_toml(setting.option->get_default_str());
      origin = "default";
    } else if (setting.is_flag()) {
      value = "false";
      origin = "default";
    } else {
      std::cout << fmt::format("# {} is not set{}\n", setting.name(),
                               setting.option->get_required() ? ", and needed" : "");
      return;
    }
    std::cout << fmt::format("{} = {}  # {}\n", setting.name(), value, origin);
  }

  CLI::App& command_;
  const ConfigSchema schema_;
  std::vector<Setting> settings_;
  std::vector<std::string> set_values_;
  CLI::Option* files_ = nullptr;
  CLI::Option* sets_ = nullptr;
  bool print_config_ = false;
  CLI::Option* print_ = nullptr;  // counted: its callback comes after ours
};

}  // namespace

void add_configuration(CLI::App& command, const ConfigSchema& schema) {
  auto configuration = std::make_shared<Configuration>(command, schema);
  configuration->add_flags(configuration);
}

}  // namespace cortex
