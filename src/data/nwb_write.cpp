#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "data/hdf5_writer.h"
#include "data/nwb.h"

namespace cortex {
namespace {

using Texts = hdf5::Writer::Texts;

// A fixed creation date keeps a file's bytes a function of the recording.
constexpr const char* kCreated = "2000-01-01T00:00:00+00:00";
constexpr const char* kDefaultVersion = "2.4.0";
constexpr const char* kElectrodeTable = "/general/extracellular_ephys/electrodes";

std::uint64_t fnv1a(const std::string& text, std::uint64_t hash) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

/// Lays one recording out; the NWB types and their attributes.
class Layout {
 public:
  Layout(hdf5::Writer& out, const Recording& recording) : out_(out), recording_(recording) {}

  Result<void> write() {
    write_session();
    write_electrodes();
    write_trials();
    if (auto ok = write_units(); !ok) return ok.error();
    return write_behavior();
  }

 private:
  /// Type, namespace and an id that depends on the recording and the path alone.
  Texts typed(const std::string& type, const std::string& path, Texts more = {}) const {
    static const std::set<std::string> kCommon = {"VectorData", "VectorIndex", "ElementIdentifiers",
                                                  "DynamicTable", "DynamicTableRegion"};
    const std::uint64_t high = fnv1a(path, fnv1a(recording_.identifier, 0xcbf29ce484222325u));
    const std::uint64_t low = fnv1a(path, high);
    more.emplace_back("neurodata_type", type);
    more.emplace_back("namespace", kCommon.contains(type) ? "hdmf-common" : "core");
    more.emplace_back("object_id", fmt::format("{:08x}-{:04x}-5{:03x}-a{:03x}-{:012x}", high >> 32,
                                               (high >> 16) & 0xffff, high & 0xfff, low >> 52,
                                               low & 0xffffffffffffu));
    return more;
  }
  Texts column(const std::string& path, const std::string& description) const {
    return typed("VectorData", path, {{"description", description}});
  }
  void table(const std::string& path, const std::string& type, const std::string& description,
             const std::vector<std::string>& columns) {
    out_.group(path, typed(type, path, {{"description", description}}));
    out_.texts_attribute(path, "colnames", columns);
  }
  void ids(const std::string& table_path, std::span<const std::int64_t> values) {
    const std::string path = table_path + "/id";
    out_.integers(path, values, typed("ElementIdentifiers", path));
  }

  void write_session();
  void write_electrodes();
  void write_trials();
  Result<void> write_units();
  void write_index(const std::string& path, const std::vector<std::uint32_t>& ends);
  Result<void> write_behavior();
  void write_times(const BehaviorSeries& series, const std::string& path,
                   std::vector<std::pair<const BehaviorSeries*, std::string>>& timed);

  hdf5::Writer& out_;
  const Recording& recording_;
};

void Layout::write_session() {
  const Recording& r = recording_;
  for (const auto& [name, value] : typed("NWBFile", "/")) out_.text_attribute("/", name, value);
  out_.text_attribute("/", "nwb_version", r.nwb_version.empty() ? kDefaultVersion : r.nwb_version);
  for (const char* path : {"/acquisition", "/analysis", "/general", "/intervals", "/processing",
                           "/stimulus/presentation", "/stimulus/templates"})
    out_.group(path);
  const std::vector<std::string> created = {kCreated};
  out_.texts("/file_create_date", created);
  out_.text("/identifier", r.identifier);
  out_.text("/session_description", r.description);
  const std::string start = r.session_start_time.empty() ? kCreated : r.session_start_time;
  out_.text("/session_start_time", start);
  out_.text("/timestamps_reference_time", start);
  if (!r.session_id.empty()) out_.text("/general/session_id", r.session_id);
  if (!r.subject_id.empty()) {
    const std::string subject = "/general/subject";
    out_.group(subject, typed("Subject", subject));
    out_.text(subject + "/subject_id", r.subject_id);
  }
}

void Layout::write_electrodes() {
  const auto& electrodes = recording_.electrodes;
  if (electrodes.empty()) return;
  std::vector<std::int64_t> numbers;
  std::vector<std::string> locations, groups, targets;
  for (const Electrode& electrode : electrodes) {
    numbers.push_back(electrode.id);
    locations.push_back(electrode.location);
    groups.push_back(electrode.group);
    std::string name = electrode.group.empty() ? "electrode_group" : electrode.group;
    std::replace(name.begin(), name.end(), '/', '_');
    const std::string path = "/general/extracellular_ephys/" + name;
    const std::string device = "/general/devices/" + name;
    if (std::find(targets.begin(), targets.end(), path) == targets.end()) {
      out_.group(device, typed("Device", device, {{"description", name}}));
      out_.group(path, typed("ElectrodeGroup", path,
                             {{"description", name}, {"location", electrode.location}}));
      out_.soft_link(path + "/device", device);
    }
    targets.push_back(path);
  }
  const std::string path = kElectrodeTable;
  table(path, "DynamicTable", "metadata about extracellular electrodes",
        {"location", "group", "group_name"});
  ids(path, numbers);
  out_.texts(path + "/location", locations,
             column(path + "/location", "the location of channel within the subject"));
  out_.references(path + "/group", targets,
                  column(path + "/group", "a reference to the electrode's group"));
  out_.texts(path + "/group_name", groups,
             column(path + "/group_name", "the name of the electrode's group"));
}

void Layout::write_trials() {
  const auto& trials = recording_.trials;
  if (trials.empty()) return;
  const std::string path = "/intervals/trials";
  std::set<std::string> names;
  bool any_split = false;
  std::vector<std::int64_t> numbers;
  std::vector<double> starts, stops;
  std::vector<std::string> splits;
  for (const Trial& trial : trials) {
    for (const auto& [name, value] : trial.columns) names.insert(name);
    any_split = any_split || !trial.split.empty();
    numbers.push_back(trial.id);
    starts.push_back(trial.span.start_s);
    stops.push_back(trial.span.stop_s);
    splits.push_back(trial.split);
  }
  std::vector<std::string> columns = {"start_time", "stop_time"};
  columns.insert(columns.end(), names.begin(), names.end());
  if (any_split) columns.push_back("split");
  table(path, "TimeIntervals", "experimental trials", columns);
  ids(path, numbers);
  out_.reals(path + "/start_time", starts, 0,
             column(path + "/start_time", "Start time of epoch, in seconds"));
  out_.reals(path + "/stop_time", stops, 0,
             column(path + "/stop_time", "Stop time of epoch, in seconds"));
  for (const std::string& name : names) {
    std::vector<double> values;
    for (const Trial& trial : trials) {
      const auto found = trial.columns.find(name);
      values.push_back(found == trial.columns.end() ? std::numeric_limits<double>::quiet_NaN()
                                                    : found->second);
    }
    const std::string at = fmt::format("{}/{}", path, name);
    out_.reals(at, values, 0, column(at, name));
  }
  if (any_split)
    out_.texts(path + "/split", splits, column(path + "/split", "Split that the trial belongs to"));
}

void Layout::write_index(const std::string& path, const std::vector<std::uint32_t>& ends) {
  const std::string index = path + "_index";
  out_.indices(index, ends,
               typed("VectorIndex", index,
                     {{"description", fmt::format("Index for VectorData '{}'",
                                                  path.substr(path.rfind('/') + 1))}}));
  out_.reference_attribute(index, "target", path);
}

Result<void> Layout::write_units() {
  const auto& units = recording_.units;
  std::vector<std::int64_t> numbers, electrodes;
  std::vector<std::int8_t> held_out;
  std::vector<double> spikes, observed;
  std::vector<std::uint32_t> spike_ends, observed_ends, electrode_ends;
  const auto total = recording_.spike_count();
  if (total > std::numeric_limits<std::uint32_t>::max())
    return Error{ErrorCode::too_large, fmt::format("{} spikes do not fit one file", total),
                 "units"};
  spikes.reserve(static_cast<std::size_t>(total));
  for (const Unit& unit : units) {
    std::int64_t number = 0;
    const char* end = unit.id.data() + unit.id.size();
    const auto [stop, failure] = std::from_chars(unit.id.data(), end, number);
    if (failure != std::errc() || stop != end)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("unit id '{}': NWB ids are integers", unit.id), "units"};
    numbers.push_back(number);
    held_out.push_back(unit.held_out ? 1 : 0);
    spikes.insert(spikes.end(), unit.spike_times_s.begin(), unit.spike_times_s.end());
    spike_ends.push_back(static_cast<std::uint32_t>(spikes.size()));
    for (const Interval& span : unit.observed) {
      observed.push_back(span.start_s);
      observed.push_back(span.stop_s);
    }
    observed_ends.push_back(static_cast<std::uint32_t>(observed.size() / 2));
    if (unit.electrode) electrodes.push_back(*unit.electrode);
    electrode_ends.push_back(static_cast<std::uint32_t>(electrodes.size()));
  }
  const std::string path = "/units";
  std::vector<std::string> columns = {"heldout", "spike_times"};
  if (!observed.empty()) columns.push_back("obs_intervals");
  if (!electrodes.empty()) columns.push_back("electrodes");
  table(path, "Units", "data on spiking units", columns);
  ids(path, numbers);
  out_.booleans(path + "/heldout", held_out,
                column(path + "/heldout", "Whether the unit is held out (True) or not"));
  out_.reals(path + "/spike_times", spikes, 0,
             column(path + "/spike_times", "the spike times for each unit"));
  write_index(path + "/spike_times", spike_ends);
  if (!observed.empty()) {
    out_.reals(path + "/obs_intervals", observed, 2,
               column(path + "/obs_intervals", "the observation intervals for each unit"));
    write_index(path + "/obs_intervals", observed_ends);
  }
  if (!electrodes.empty()) {
    const std::string rows = path + "/electrodes";
    out_.integers(rows, electrodes,
                  typed("DynamicTableRegion", rows,
                        {{"description", "the electrode that each unit came from"}}));
    if (recording_.electrodes.empty())
      return Error{ErrorCode::invalid_argument,
                   "units name electrodes, but the recording has no electrodes table", "units"};
    out_.reference_attribute(rows, "table", kElectrodeTable);
    write_index(rows, electrode_ends);
  }
  return {};
}

/// The rate at which every time is exactly start + row / rate; 0 if there is none.
double exact_rate(const std::vector<double>& times) {
  if (times.size() < 2) return 0;
  const double rate =
      std::round(static_cast<double>(times.size() - 1) / (times.back() - times.front()) * 1000) /
      1000;
  if (!std::isfinite(rate) || rate <= 0) return 0;
  for (std::size_t row = 0; row < times.size(); ++row)
    if (times[row] != times.front() + static_cast<double>(row) / rate) return 0;
  return rate;
}

void Layout::write_times(const BehaviorSeries& series, const std::string& path,
                         std::vector<std::pair<const BehaviorSeries*, std::string>>& timed) {
  if (const double rate = exact_rate(series.times_s); rate > 0) {
    out_.real_scalar(path + "/starting_time", series.times_s.front());
    out_.real_attribute(path + "/starting_time", "rate", rate);
    out_.text_attribute(path + "/starting_time", "unit", "seconds");
    return;
  }
  const std::string times = path + "/timestamps";
  for (const auto& [other, other_times] : timed)
    if (other->times_s == series.times_s) return out_.soft_link(times, other_times);
  out_.reals(times, series.times_s, 0, {{"unit", "seconds"}});
  out_.real_attribute(times, "interval", 1);
  timed.emplace_back(&series, times);
}

Result<void> Layout::write_behavior() {
  std::set<std::string> used;
  std::vector<std::pair<const BehaviorSeries*, std::string>> timed;
  for (const BehaviorSeries& series : recording_.behavior) {
    if (series.values.size() != series.times_s.size() * series.dims || series.dims == 0)
      return Error{
          ErrorCode::invalid_argument,
          fmt::format("series '{}': {} values are not {} times of {} dimensions", series.name,
                      series.values.size(), series.times_s.size(), series.dims),
          "behavior"};
    const bool acquired = series.path.starts_with("/acquisition/");
    const bool own_path =
        (acquired || series.path.starts_with("/processing/")) &&
        series.path.ends_with("/" + series.name) &&
        std::count(series.path.begin(), series.path.end(), '/') >= (acquired ? 2 : 3);
    const std::string path = own_path ? series.path : "/processing/behavior/" + series.name;
    if (!used.insert(path).second)
      return Error{ErrorCode::invalid_argument, fmt::format("two series at {}", path), "behavior"};
    const std::size_t root = path.find('/', 1) + 1;
    for (std::size_t at = path.find('/', root); at != std::string::npos;
         at = path.find('/', at + 1)) {
      const std::string parent = path.substr(0, at);
      if (!used.insert(parent).second) continue;
      const bool module = path.starts_with("/processing/") && parent.find('/', root) == parent.npos;
      out_.group(parent,
                 module ? typed("ProcessingModule", parent, {{"description", parent.substr(root)}})
                        : typed("BehavioralTimeSeries", parent));
    }
    out_.group(path, typed("TimeSeries", path,
                           {{"description", series.name}, {"comments", "no comments"}}));
    const std::string data = path + "/data";
    const Texts unit = {{"unit", series.unit}};
    const std::size_t columns = series.dims == 1 ? 0 : series.dims;
    if (series.conversion == 1.0) {
      out_.reals(data, series.values, columns, unit);
    } else {
      // In double, times the conversion rounds back to the very float.
      std::vector<double> raw;
      raw.reserve(series.values.size());
      for (const float value : series.values)
        raw.push_back(static_cast<double>(value) / series.conversion);
      out_.reals(data, raw, columns, unit);
    }
    out_.real_attribute(data, "conversion", series.conversion);
    out_.real_attribute(data, "resolution", -1);
    write_times(series, path, timed);
  }
  return {};
}

Result<void> sync(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool ok = fd >= 0 && ::fsync(fd) == 0;
  const int reason = errno;
  if (fd >= 0) ::close(fd);
  if (!ok)
    return Error{ErrorCode::io_error,
                 fmt::format("{}: cannot sync: {}", path, std::strerror(reason)), "path"};
  return {};
}

}  // namespace

Result<void> write_nwb(const std::string& path, const Recording& recording) {
  const std::string part = fmt::format("{}.{}.part", path, ::getpid());
  const auto write = [&]() -> Result<void> {
    hdf5::Writer out(part);
    auto laid = Layout(out, recording).write();
    auto closed = out.close();
    if (!laid) return laid;
    if (!closed) return closed;
    if (auto ok = sync(part); !ok) return ok;
    if (std::rename(part.c_str(), path.c_str()) != 0)
      return Error{ErrorCode::io_error,
                   fmt::format("{}: cannot rename into place: {}", path, std::strerror(errno)),
                   "path"};
    return {};
  };
  auto done = write();
  if (!done) ::unlink(part.c_str());
  return done;
}

}  // namespace cortex
