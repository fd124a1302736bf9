#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace cortex {

/// A closed-open span of session time, seconds.
struct Interval {
  double start_s = 0;
  double stop_s = 0;
};

/// One sorted unit.
struct Unit {
  std::string id;                         ///< the `id` column, as text
  bool held_out = false;                  ///< NLB's `heldout`; false where absent
  std::optional<std::int64_t> electrode;  ///< row of the electrodes table, where present
  std::vector<double> spike_times_s;      ///< ascending, session time
  std::vector<Interval> observed;         ///< `obs_intervals`; empty where absent
};

struct Trial {
  std::int64_t id = 0;
  Interval span;
  std::string split;  ///< "train", "val", "test"; empty where absent
  /// Other numeric columns by name, e.g. `move_onset_time`; NaN where the file has NaN.
  std::map<std::string, double> columns;
};

/// A behaviour series sampled at explicit times, in the unit the file states (after `conversion`).
struct BehaviorSeries {
  std::string name;  ///< e.g. "hand_vel"
  std::string path;  ///< HDF5 path
  std::string unit;  ///< e.g. "mm/s"
  double conversion = 1.0;
  std::size_t dims = 0;
  std::vector<double> times_s;  ///< strictly ascending
  std::vector<float> values;    ///< [times, dims], conversion applied; may hold NaN
};

struct Electrode {
  std::int64_t id = 0;
  std::string location;
  std::string group;
};

/// What the engine takes from an NWB file.
struct Recording {
  std::string path;
  std::string nwb_version;
  std::string identifier;
  std::string session_id;
  std::string subject_id;
  std::string description;
  std::string session_start_time;  ///< ISO 8601, what session time counts from; empty where absent
  std::vector<Unit> units;
  std::vector<Trial> trials;
  std::vector<Electrode> electrodes;
  std::vector<BehaviorSeries> behavior;
  /// Path of the series to decode, where `prepare` chose one; never from a file.
  std::string target;

  const BehaviorSeries* find_behavior(const std::string& name) const;
  const BehaviorSeries* find_path(const std::string& hdf5_path) const;
  std::int64_t spike_count() const;
  /// What its session is called: its id, or the file's where it has none.
  const std::string& session() const { return session_id.empty() ? identifier : session_id; }
};

/// "SESSION/ID": a unit's id in a table of several sessions.
std::string session_unit_id(const std::string& session, const std::string& id);

}  // namespace cortex
