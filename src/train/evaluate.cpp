#include "train/evaluate.h"

#include <algorithm>

namespace cortex::train {

void run_timeline(const Network& network, const Timeline& timeline, std::int64_t chunk_steps,
                  const std::function<void(const ScoredSpan&, const float*)>& take) {
  const torch::NoGradGuard no_grad;
  for (std::size_t p = 0; p < timeline.parts.size(); ++p) {
    const TimelinePart& part = timeline.parts[p];
    std::int64_t s = 0;
    const std::int64_t reach = network.recurrent() ? part.steps() : chunk_steps;
    while (s < part.steps()) {
      // A chunk begins at a scored step and ends after its last one.
      while (s < part.steps() && !part.mask[s]) ++s;
      std::int64_t end = std::min(part.steps(), s + reach);
      const std::int64_t next = end;
      while (end > s && !part.mask[end - 1]) --end;
      if (end <= s) break;
      const std::int64_t from =
          network.recurrent() ? 0 : std::max<std::int64_t>(0, s - network.context_steps());
      CropBatch batch = whole_span(timeline, {static_cast<std::int64_t>(p), from}, end - from);
      std::fill(batch.mask.begin(), batch.mask.begin() + (s - from), std::uint8_t{0});
      batch.scored = std::count(batch.mask.begin(), batch.mask.end(), std::uint8_t{1});
      const torch::Tensor y = network.forward(batch).to(torch::kCPU, torch::kFloat32).contiguous();
      take({p, s, end}, y.data_ptr<float>() + (s - from) * y.size(-1));
      s = next;
    }
  }
}

Decoded decode_timeline(const Network& network, const Timeline& timeline,
                        const std::vector<float>& mean, const std::vector<float>& std,
                        std::int64_t chunk_steps) {
  const std::size_t dims = timeline.dims;
  Decoded out;
  std::vector<std::size_t> row;  // before each part
  for (const TimelinePart& part : timeline.parts) {
    row.push_back(out.mask.size());
    out.mask.insert(out.mask.end(), part.mask.begin(), part.mask.end());
    out.truth.insert(out.truth.end(), part.target.begin(), part.target.end());
  }
  out.values.resize(out.mask.size() * dims, 0.0f);
  run_timeline(network, timeline, chunk_steps, [&](const ScoredSpan& span, const float* decoded) {
    for (std::int64_t i = span.first; i < span.last; ++i) {
      if (!timeline.parts[span.part].mask[i]) continue;
      for (std::size_t d = 0; d < dims; ++d)
        out.values[(row[span.part] + i) * dims + d] =
            decoded[(i - span.first) * dims + d] * std[d] + mean[d];
    }
  });
  out.score = r2_score(out.truth, out.values, out.mask, dims);
  return out;
}

}  // namespace cortex::train
