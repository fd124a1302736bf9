#include <fmt/format.h>

#include <cctype>
#include <utility>

#include "data/nwb.h"
#include "data/nwb_parts.h"

namespace cortex {
namespace {

Result<void> check_version(const hdf5::File& file, Recording& recording) {
  std::string version = file.text_attribute("/", "nwb_version").value_or("");
  if (version.empty()) {
    // NWB 1.x keeps its version in a dataset.
    if (file.is_dataset("/nwb_version")) {
      const auto old = file.texts("/nwb_version");
      return Error{ErrorCode::unsupported,
                   fmt::format("{}: NWB 1.x file ({}); convert it to NWB 2", file.name(),
                               old && !old->values.empty() ? old->values[0] : "version unreadable"),
                   "nwb_version"};
    }
    return file.corrupt("/", "no nwb_version: an HDF5 file, but not an NWB file");
  }
  const std::string number = version.starts_with("NWB-") ? version.substr(4) : version;
  if (!number.starts_with("2."))
    return Error{ErrorCode::unsupported,
                 fmt::format("{}: NWB version '{}', only 2.x is read", file.name(), version),
                 "nwb_version"};
  recording.nwb_version = std::move(version);
  return {};
}

Result<std::string> optional_text(const hdf5::File& file, const std::string& path) {
  if (!file.exists(path)) return std::string();
  auto text = file.texts(path);
  if (!text) return text.error();
  if (text->values.size() != 1) return file.corrupt(path, "expected one text");
  return std::move(text->values[0]);
}

Result<Recording> read(const hdf5::File& file) {
  Recording recording;
  recording.path = file.name();
  if (auto ok = check_version(file, recording); !ok) return ok.error();
  const std::pair<const char*, std::string*> texts[] = {
      {"/identifier", &recording.identifier},
      {"/general/session_id", &recording.session_id},
      {"/general/subject/subject_id", &recording.subject_id},
      {"/session_description", &recording.description},
      {"/session_start_time", &recording.session_start_time}};
  for (const auto& [path, field] : texts) {
    auto text = optional_text(file, path);
    if (!text) return text.error();
    *field = std::move(*text);
  }
  auto electrodes = nwb::read_electrodes(file);
  if (!electrodes) return electrodes.error();
  recording.electrodes = std::move(*electrodes);
  auto units = nwb::read_units(file, static_cast<std::int64_t>(recording.electrodes.size()));
  if (!units) return units.error();
  recording.units = std::move(*units);
  auto trials = nwb::read_trials(file);
  if (!trials) return trials.error();
  recording.trials = std::move(*trials);
  auto behavior = nwb::read_behavior(file);
  if (!behavior) return behavior.error();
  recording.behavior = std::move(*behavior);
  return recording;
}

}  // namespace

Result<Recording> read_nwb(const std::string& path) {
  const hdf5::LibraryLock lock;
  const auto file = hdf5::File::open(path);
  if (!file) return file.error();
  return read(*file);
}

Result<Recording> read_nwb_image(std::span<const std::byte> bytes, const std::string& name) {
  const hdf5::LibraryLock lock;
  const auto file = hdf5::File::open_image(bytes, name);
  if (!file) return file.error();
  return read(*file);
}

}  // namespace cortex
