#include "data/recording.h"

namespace cortex {

const BehaviorSeries* Recording::find_behavior(const std::string& name) const {
  for (const BehaviorSeries& series : behavior)
    if (series.name == name) return &series;
  return nullptr;
}

const BehaviorSeries* Recording::find_path(const std::string& hdf5_path) const {
  for (const BehaviorSeries& series : behavior)
    if (series.path == hdf5_path) return &series;
  return nullptr;
}

std::int64_t Recording::spike_count() const {
  std::int64_t count = 0;
  for (const Unit& unit : units) count += static_cast<std::int64_t>(unit.spike_times_s.size());
  return count;
}

std::string session_unit_id(const std::string& session, const std::string& id) {
  return session + "/" + id;
}

}  // namespace cortex
