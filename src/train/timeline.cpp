#include "train/timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>

namespace cortex::train {
namespace {

bool wanted(const std::string& splits, const std::string& split) {
  if (splits == "all") return true;
  std::stringstream list(splits);
  for (std::string one; std::getline(list, one, ',');)
    if (one == split) return true;
  return false;
}

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
    if (wanted(splits, trial.split)) continue;
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
                               const std::string& splits, OtherTrials others) {
  auto mask = scored_steps(stepped, recording, splits);
  if (!mask) return mask.error();
  TimelinePart part;
  part.path = recording.path;
  part.session = recording.session_id.empty() ? recording.identifier : recording.session_id;
  part.mask = *std::move(mask);
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
    } else {
      part.events.insert(part.events.end(), events.begin(), events.end());
    }
    part.indptr.push_back(static_cast<std::int64_t>(part.events.size()));
  }
  return part;
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
                               const std::string& splits, OtherTrials others) {
  Timeline timeline;
  StepOptions step = options;
  for (const Recording& recording : recordings) {
    auto stepped = step_recording(recording, step);
    if (!stepped) return stepped.error();
    auto part = make_part(recording, *stepped, splits, others);
    if (!part) return part.error();
    if (timeline.parts.empty()) {
      timeline.unit_ids = stepped->unit_ids;
      timeline.output_names = stepped->output_names;
      timeline.output_unit = stepped->output_unit;
      timeline.dims = stepped->dims;
      timeline.bin_ms = stepped->bin_ms;
      timeline.step_ms = stepped->step_ms;
      // Later recordings must hold the same units; they are matched by id, in the first one's
      // order.
      step.unit_ids = stepped->unit_ids;
    } else if (stepped->dims != timeline.dims || stepped->output_unit != timeline.output_unit) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{}: target has {} dimensions in '{}', the first recording has {} "
                               "in '{}'",
                               recording.path, stepped->dims, stepped->output_unit, timeline.dims,
                               timeline.output_unit),
                   "nwb"};
    }
    timeline.parts.push_back(*std::move(part));
  }
  if (timeline.parts.empty())
    return Error{ErrorCode::invalid_argument, "no recording was given", "nwb"};
  std::vector<double> spikes(timeline.unit_ids.size(), 0);
  double seconds = 0;
  for (const TimelinePart& part : timeline.parts)
    for (std::int64_t s = 0; s < part.steps(); ++s) {
      if (!part.observed[s]) continue;
      seconds += timeline.step_ms / 1000;
      for (std::int64_t e = part.indptr[s]; e < part.indptr[s + 1]; ++e)
        spikes[part.events[e].unit] += part.events[e].value;
    }
  for (const double n : spikes) timeline.unit_rates_hz.push_back(seconds > 0 ? n / seconds : 0);
  timeline.digest = digest_of(timeline.parts);
  return timeline;
}

}  // namespace cortex::train
