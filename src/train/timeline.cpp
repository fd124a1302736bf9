#include "train/timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "data/folds.h"

namespace cortex::train {
namespace {

struct Fnv {
  std::uint64_t state = 0xcbf29ce484222325ULL;
  template <class T>
  void add(const T* data, std::size_t count) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < count * sizeof(T); ++i)
      state = (state ^ bytes[i]) * 0x100000001b3ULL;
  }
};

std::string digest_of(const std::vector<TimelinePart>& parts) {
  Fnv h;
  for (const TimelinePart& part : parts) {
    h.add(part.indptr.data(), part.indptr.size());
    for (const Event& e : part.events) {
      h.add(&e.unit, 1);
      h.add(&e.value, 1);
      h.add(&e.bin, 1);
    }
    h.add(part.mask.data(), part.mask.size());
    for (std::size_t i = 0; i < part.target.size(); ++i)
      if (std::isfinite(part.target[i])) h.add(&part.target[i], 1);
  }
  return fmt::format("{:016x}", h.state);
}

/// 1 for steps that overlap a trial whose split is not wanted.
std::vector<std::uint8_t> blanked_steps(const Recording& recording, const SteppedRecording& stepped,
                                        const std::string& splits) {
  std::vector<std::uint8_t> blank(static_cast<std::size_t>(stepped.steps()), 0);
  const double step_s = stepped.step_ms / 1000;
  for (const Trial& trial : recording.trials) {
    if (split_wanted(splits, trial.split)) continue;
    // A trial that ends on a step's edge does not reach into the next step.
    const double slack = 1e-6;
    const auto first = static_cast<std::int64_t>(
        std::floor((trial.span.start_s - stepped.origin_s) / step_s + slack));
    const auto last = static_cast<std::int64_t>(
        std::ceil((trial.span.stop_s - stepped.origin_s) / step_s - slack));
    for (std::int64_t s = std::max<std::int64_t>(0, first); s < std::min(last, stepped.steps());
         ++s)
      blank[s] = 1;
  }
  return blank;
}

/// One table of units over recordings that may each have their own.
class UnitTable {
 public:
  UnitTable(Timeline& timeline, UnitsBy by, const StepOptions& options)
      : timeline_(timeline),
        by_(by),
        fixed_(!options.unit_ids.empty()),
        unknown_are_silent_(options.allow_missing_units) {
    if (by == UnitsBy::session)
      for (const std::string& id : options.unit_ids) row(id, id.substr(0, id.rfind('/')));
  }

  /// Units to cut the next recording with; empty: its own.
  const std::vector<std::string>& wanted(const std::vector<std::string>& asked) const {
    static const std::vector<std::string> kOwn;
    if (by_ == UnitsBy::session) return kOwn;
    return timeline_.unit_ids.empty() ? asked : timeline_.unit_ids;
  }

  /// Moves the part's events to rows of the table.
  Result<void> add(const Recording& recording, const SteppedRecording& stepped,
                   TimelinePart& part) {
    if (by_ == UnitsBy::id) {
      timeline_.unit_ids = stepped.unit_ids;
      timeline_.unit_sessions.resize(stepped.unit_ids.size(), part.session);
      mark_held_out(recording, "");
      return {};
    }
    std::vector<std::int32_t> rows;
    for (const std::string& id : stepped.unit_ids) {
      const std::string name = session_unit_id(part.session, id);
      if (fixed_ && !rows_.contains(name)) {
        if (unknown_are_silent_) {
          rows.push_back(kSilent);
          continue;
        }
        return Error{ErrorCode::not_found,
                     fmt::format("{}: the model has no unit '{}': it was not trained on this "
                                 "session",
                                 recording.path, name),
                     "units"};
      }
      rows.push_back(row(name, part.session));
    }
    for (Event& e : part.events) e.unit = rows[static_cast<std::size_t>(e.unit)];
    keep_events(part, [](const Event& e) { return e.unit != kSilent; });
    mark_held_out(recording, session_unit_id(part.session, ""));
    return {};
  }

 private:
  void mark_held_out(const Recording& recording, const std::string& prefix) {
    std::set<std::string> held_out;
    for (const Unit& unit : recording.units)
      if (unit.held_out) held_out.insert(prefix + unit.id);
    timeline_.unit_held_out.resize(timeline_.unit_ids.size(), 0);
    for (std::size_t u = 0; u < timeline_.unit_ids.size(); ++u)
      if (held_out.contains(timeline_.unit_ids[u])) timeline_.unit_held_out[u] = 1;
  }

  std::int32_t row(const std::string& id, const std::string& session) {
    const auto [at, fresh] = rows_.emplace(id, static_cast<std::int32_t>(rows_.size()));
    if (fresh) {
      timeline_.unit_ids.push_back(id);
      timeline_.unit_sessions.push_back(session);
    }
    return at->second;
  }

  static constexpr std::int32_t kSilent = -1;

  Timeline& timeline_;
  UnitsBy by_;
  bool fixed_;
  bool unknown_are_silent_;
  std::map<std::string, std::int32_t> rows_;
};

template <class F>
std::vector<float> over_targets(const Timeline& timeline, F per_dim) {
  std::vector<float> out;
  for (std::size_t d = 0; d < timeline.dims; ++d) {
    double sum = 0;
    double squares = 0;
    std::int64_t n = 0;
    for (const TimelinePart& part : timeline.parts)
      for (std::int64_t s = 0; s < part.steps(); ++s) {
        if (!part.mask[s]) continue;
        const double v = part.target[s * timeline.dims + d];
        sum += v;
        squares += v * v;
        ++n;
      }
    const double mean = n ? sum / static_cast<double>(n) : 0;
    const double variance = n ? squares / static_cast<double>(n) - mean * mean : 0;
    out.push_back(static_cast<float>(per_dim(mean, variance)));
  }
  return out;
}

}  // namespace

std::int64_t Timeline::steps() const {
  std::int64_t n = 0;
  for (const auto& part : parts) n += part.steps();
  return n;
}

std::int64_t Timeline::scored() const {
  std::int64_t n = 0;
  for (const auto& part : parts)
    for (const auto m : part.mask) n += m;
  return n;
}

std::vector<float> Timeline::target_mean() const {
  return over_targets(*this, [](double mean, double) { return mean; });
}

std::vector<float> Timeline::target_std() const {
  return over_targets(
      *this, [](double, double variance) { return variance > 1e-12 ? std::sqrt(variance) : 1.0; });
}

Result<TimelinePart> make_part(const Recording& recording, const SteppedRecording& stepped,
                               const std::string& splits, OtherTrials others,
                               const StepOptions& options, const ProtocolOptions& protocol) {
  auto scored = protocol_steps(stepped, recording, splits, options.target_offset_ms, protocol);
  if (!scored) return scored.error();
  TimelinePart part;
  part.path = recording.path;
  part.session = recording.session();
  part.mask = std::move(scored->mask);
  part.scored_trial = std::move(scored->trial);
  part.target = stepped.target;
  part.observed = stepped.observed;
  part.trial = stepped.trial;
  if (others == OtherTrials::keep) {
    part.indptr = stepped.indptr;
    part.events = stepped.events;
    return part;
  }
  const auto blank = blanked_steps(recording, stepped, splits);
  part.indptr.push_back(0);
  for (std::int64_t s = 0; s < stepped.steps(); ++s) {
    const auto events = stepped.step_events(s);
    if (blank[s]) {
      part.observed[s] = 0;
      part.mask[s] = 0;
      part.scored_trial[s] = -1;
    } else {
      part.events.insert(part.events.end(), events.begin(), events.end());
    }
    part.indptr.push_back(static_cast<std::int64_t>(part.events.size()));
    const std::size_t dims = stepped.dims;
    for (std::size_t d = 0; d < dims && !part.mask[s]; ++d)
      part.target[s * dims + d] = std::numeric_limits<float>::quiet_NaN();
  }
  return part;
}

void keep_events(TimelinePart& part, const std::function<bool(const Event&)>& keep) {
  std::size_t to = 0;
  std::size_t from = 0;
  for (std::size_t s = 0; s + 1 < part.indptr.size(); ++s) {
    const auto end = static_cast<std::size_t>(part.indptr[s + 1]);
    for (; from < end; ++from)
      if (keep(part.events[from])) part.events[to++] = part.events[from];
    part.indptr[s + 1] = static_cast<std::int64_t>(to);
  }
  part.events.resize(to);
}

Timeline cut_at_trials(const Timeline& timeline) {
  Timeline out = timeline;
  out.parts.clear();
  const auto bins = static_cast<std::int64_t>(timeline.step_ms / timeline.bin_ms + 0.5);
  for (const TimelinePart& whole : timeline.parts)
    for (std::int64_t s = 0, end = 0; s < whole.steps(); s = end) {
      end = s + 1;
      while (end < whole.steps() && whole.trial[end] == whole.trial[s]) ++end;
      TimelinePart part;
      part.path = whole.path;
      part.session = whole.session;
      part.mask.assign(whole.mask.begin() + s, whole.mask.begin() + end);
      if (std::find(part.mask.begin(), part.mask.end(), 1) == part.mask.end()) continue;
      part.observed.assign(whole.observed.begin() + s, whole.observed.begin() + end);
      part.trial.assign(whole.trial.begin() + s, whole.trial.begin() + end);
      part.scored_trial.assign(whole.scored_trial.begin() + s, whole.scored_trial.begin() + end);
      const auto dims = static_cast<std::int64_t>(timeline.dims);
      part.target.assign(whole.target.begin() + s * dims, whole.target.begin() + end * dims);
      part.events.assign(whole.events.begin() + whole.indptr[s],
                         whole.events.begin() + whole.indptr[end]);
      for (Event& e : part.events) e.bin -= s * bins;
      for (std::int64_t i = s; i <= end; ++i)
        part.indptr.push_back(whole.indptr[i] - whole.indptr[s]);
      out.parts.push_back(std::move(part));
    }
  return out;
}

Result<Timeline> make_timeline(const std::vector<Recording>& recordings, const StepOptions& options,
                               const std::string& splits, OtherTrials others,
                               const ProtocolOptions& protocol, UnitsBy units_by) {
  Timeline timeline;
  UnitTable table(timeline, units_by, options);
  std::int32_t trials = 0;
  for (const Recording& recording : recordings) {
    StepOptions step = options;
    step.unit_ids = table.wanted(options.unit_ids);
    auto stepped = step_recording(recording, step);
    if (!stepped) return stepped.error();
    auto part = make_part(recording, *stepped, splits, others, options, protocol);
    if (!part) return part.error();
    if (const auto ok = table.add(recording, *stepped, *part); !ok) return ok.error();
    if (timeline.parts.empty()) {
      timeline.output_names = stepped->output_names;
      timeline.output_unit = stepped->output_unit;
      timeline.dims = stepped->dims;
      timeline.bin_ms = stepped->bin_ms;
      timeline.step_ms = stepped->step_ms;
    } else if (stepped->dims != timeline.dims || stepped->output_unit != timeline.output_unit) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{}: target has {} dimensions in '{}', the first recording has {} "
                               "in '{}'",
                               recording.path, stepped->dims, stepped->output_unit, timeline.dims,
                               timeline.output_unit),
                   "nwb"};
    }
    for (std::int32_t& t : part->scored_trial) t += t < 0 ? 0 : trials;
    trials += static_cast<std::int32_t>(recording.trials.size());
    timeline.parts.push_back(*std::move(part));
  }
  if (timeline.parts.empty())
    return Error{ErrorCode::invalid_argument, "no recording was given", "nwb"};
  std::vector<double> spikes(timeline.unit_ids.size(), 0);
  std::map<std::string, double> seconds;  // of a session, or all under one name
  const auto clock_of = [&](const std::string& session) {
    return units_by == UnitsBy::session ? session : std::string();
  };
  for (const TimelinePart& part : timeline.parts)
    for (std::int64_t s = 0; s < part.steps(); ++s) {
      if (!part.observed[s]) continue;
      seconds[clock_of(part.session)] += timeline.step_ms / 1000;
      for (std::int64_t e = part.indptr[s]; e < part.indptr[s + 1]; ++e)
        spikes[part.events[e].unit] += part.events[e].value;
    }
  for (std::size_t u = 0; u < spikes.size(); ++u) {
    const double time = seconds[clock_of(timeline.unit_sessions[u])];
    timeline.unit_rates_hz.push_back(time > 0 ? spikes[u] / time : 0);
  }
  timeline.digest = digest_of(timeline.parts);
  return timeline;
}

}  // namespace cortex::train
