#include "inspect_drift.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/json_writer.h"
#include "data/nwb.h"
#include "data/rate_drift.h"
#include "model/weights.h"

namespace cortex {
namespace {

// A person sees this many units; --json lists them all.
constexpr std::size_t kListedUnits = 8;

std::vector<UnitRate> rates_of_model(const std::string& path) {
  const ModelFile model = load_model(path).value_or_throw();
  std::vector<UnitRate> rates;
  for (const ModelUnit& unit : model.config.units) rates.push_back({unit.id, unit.rate_hz});
  if (rates.empty())
    throw Exception{
        {ErrorCode::invalid_argument, path + ": a window decoder names no units", "drift"}};
  if (std::all_of(rates.begin(), rates.end(), [](const UnitRate& u) { return u.rate_hz == 0; }))
    throw Exception{{ErrorCode::invalid_argument,
                     path + ": this model does not hold its units' rates; compare with a recording "
                            "that it was trained on, or write it anew with cortex-train",
                     "drift"}};
  return rates;
}

void write_names(JsonWriter& w, const char* key, const std::vector<std::string>& names) {
  w.key(key).begin_array();
  for (const std::string& name : names) w.value(name);
  w.end_array();
}

std::string as_json(const RateDrift& drift, const std::string& path, const std::string& reference) {
  JsonWriter w;
  w.begin_object().key("file").value(path).key("reference").value(reference);
  w.key("adapt_advised").value(drift.advised).key("changed_share").value(drift.changed_share);
  w.key("advised_from").value(kDriftAdvised);
  w.key("median_abs_log2").value(drift.median_abs_log2);
  w.key("median_abs_z").value(drift.median_abs_z).key("units").begin_array();
  for (const UnitDrift& unit : drift.units) {
    w.begin_object().key("id").value(unit.id).key("before_hz").value(unit.before_hz);
    w.key("now_hz").value(unit.now_hz).key("log2_ratio").value(unit.log2_ratio);
    w.key("z").value(unit.z).key("changed").value(unit.changed).end_object();
  }
  w.end_array();
  write_names(w, "lost", drift.lost);
  write_names(w, "fresh", drift.fresh);
  return w.end_object().text();
}

void print_for_a_person(const RateDrift& drift, const std::string& path,
                        const std::string& reference) {
  const auto changed = std::count_if(drift.units.begin(), drift.units.end(),
                                     [](const UnitDrift& unit) { return unit.changed; });
  fmt::print("{} against {}\n", path, reference);
  fmt::print("  units in both    {}, of which {} changed\n", drift.units.size(), changed);
  fmt::print("  lost, new        {}, {}\n", drift.lost.size(), drift.fresh.size());
  fmt::print("  median change    {:.2f} in log2 of the rate, |z| {:.1f}\n", drift.median_abs_log2,
             drift.median_abs_z);
  std::vector<UnitDrift> worst = drift.units;
  const std::size_t listed = std::min(kListedUnits, worst.size());
  std::partial_sort(worst.begin(), worst.begin() + static_cast<std::ptrdiff_t>(listed), worst.end(),
                    [](const UnitDrift& a, const UnitDrift& b) {
                      return std::abs(a.log2_ratio) > std::abs(b.log2_ratio);
                    });
  if (listed > 0)
    fmt::print("\n  {:<16} {:>9} {:>9} {:>7} {:>7}\n", "unit", "before/s", "now/s", "log2", "z");
  for (std::size_t i = 0; i < listed; ++i)
    fmt::print("  {:<16} {:>9.2f} {:>9.2f} {:>7.2f} {:>7.1f}{}\n", worst[i].id, worst[i].before_hz,
               worst[i].now_hz, worst[i].log2_ratio, worst[i].z,
               worst[i].changed ? "  changed" : "");
  if (listed < drift.units.size()) fmt::print("  ... (--json lists all)\n");
  fmt::print(
      "\n  adapt {}: {:.0f} % of the units changed, are lost or are new ({:.0f} % or more "
      "advise it)\n",
      drift.advised ? "advised" : "not advised", 100 * drift.changed_share, 100 * kDriftAdvised);
}

}  // namespace

void inspect_drift(const std::string& path, const std::string& reference,
                   bool reference_is_recording, bool json) {
  const std::vector<UnitRate> before = reference_is_recording
                                           ? rates_of(read_nwb(reference).value_or_throw())
                                           : rates_of_model(reference);
  const Recording now = read_nwb(path).value_or_throw();
  const RateDrift drift = rate_drift(before, now).value_or_throw();
  if (json)
    fmt::print("{}\n", as_json(drift, path, reference));
  else
    print_for_a_person(drift, path, reference);
}

}  // namespace cortex
