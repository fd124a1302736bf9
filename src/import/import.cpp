#include "import/import.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>

#include "core/file.h"
#include "import/csv.h"
#include "import/mat.h"
#include "import/nev.h"

namespace cortex {
namespace {

std::string_view as_text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Result<Recording> read_spikes(const std::string& path, const ImportOptions& options) {
  std::string kind = std::filesystem::path(path).extension().string();
  std::transform(kind.begin(), kind.end(), kind.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (kind == ".mat") return read_mat(path, options.ignore);
  if (!options.ignore.empty())
    return Error{ErrorCode::invalid_argument, "only variables of MATLAB files can be ignored",
                 "ignore"};
  if (kind != ".csv" && kind != ".nev")
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: '{}' is not .csv, .mat or .nev", path, kind), "file"};
  const auto bytes = read_file(path);
  if (!bytes) return bytes.error();
  if (kind == ".nev") return read_nev(*bytes, path);
  auto units = csv::read_events(as_text(*bytes), path);
  if (!units) return units.error();
  Recording recording;
  recording.units = *std::move(units);
  return recording;
}

}  // namespace

Result<Recording> import_recording(const std::string& path, const ImportOptions& options) {
  auto recording = read_spikes(path, options);
  if (!recording) return recording.error();
  const std::string stem = std::filesystem::path(path).stem().string();
  recording->identifier = stem;
  if (recording->description.empty())
    recording->description = "imported from " + std::filesystem::path(path).filename().string();
  for (const std::string& file : options.behavior) {
    const auto bytes = read_file(file);
    if (!bytes) return bytes.error();
    const std::string name = std::filesystem::path(file).stem().string();
    if (recording->find_behavior(name) != nullptr)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{}: there is a series '{}' already", file, name), "behavior"};
    auto series = csv::read_behavior(as_text(*bytes), file, name);
    if (!series) return series.error();
    recording->behavior.push_back(*std::move(series));
  }
  if (!options.trials.empty()) {
    if (!recording->trials.empty())
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{}: {} has trials already", options.trials, path), "trials"};
    const auto bytes = read_file(options.trials);
    if (!bytes) return bytes.error();
    auto trials = csv::read_trials(as_text(*bytes), options.trials);
    if (!trials) return trials.error();
    recording->trials = *std::move(trials);
  }
  return recording;
}

}  // namespace cortex
