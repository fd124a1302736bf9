#include "data/prepare.h"

#include <algorithm>

#include "data/split.h"
#include "data/target.h"
#include "data/unit_filter.h"

namespace cortex {

Result<std::vector<std::string>> prepare(Recording& recording, const PrepareOptions& options) {
  std::vector<std::string> said;
  auto target = choose_target(recording, options.target);
  if (!target) return target.error();
  said.push_back(*std::move(target));
  if (auto ok = keep_units(recording, options.units); !ok) return ok.error();
  // Without behaviour nothing is scored, and a file of spikes alone may lack trials too.
  if (recording.target.empty() && options.split.empty()) return said;
  auto split = assign_split(recording, options.split);
  if (!split) return split.error();
  said.push_back(*std::move(split));
  return said;
}

}  // namespace cortex
