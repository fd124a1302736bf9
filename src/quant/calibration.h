#pragma once

#include <cortex/events.h>
#include <cortex/result.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "model/weights.h"

namespace cortex {

/// What a model is run over to see what a change of its weights does to its behaviour. An item is
/// a step of one stream from its start, or a window.
struct Calibration {
  std::vector<std::int64_t> indptr = {0};  ///< [items + 1] into events
  /// By item, sorted by (bin, unit), duplicates merged. Units are rows of the model's table; bins
  /// count from the stream's start, or from the window's own.
  std::vector<Event> events;
  std::vector<std::uint8_t> counted;  ///< [items] 1 where outputs are compared

  std::int64_t items() const { return static_cast<std::int64_t>(indptr.size()) - 1; }
  /// Items up to the `wanted`th counted one; all where there are fewer.
  std::int64_t items_with(std::int64_t wanted) const;
};

/// invalid_argument or too_large where an event or an item is not for this model.
Result<void> check_calibration(const ModelConfig& config, const Calibration& calibration);

/// A backend as good as new. A run wants its own: one that has packed a narrow weight may stay
/// narrow elsewhere too.
using MakeOps = std::function<std::unique_ptr<Ops>()>;

/// Behaviour of the first `items` items in physical units, [items, outputs].
std::vector<float> run_model(const ModelFile& model, const MakeOps& make_ops,
                             const Calibration& calibration, std::int64_t items);

/// Rows that enter the linears, after their norm: up to `rows` of each, drawn evenly from all of
/// the first `items` items, [rows, in] by the linear's name. Linears that are only multiplied at
/// load have none. The backend works in host memory.
std::map<std::string, Tensor> sample_inputs(const ModelFile& model, const MakeOps& make_ops,
                                            const Calibration& calibration, std::int64_t items,
                                            std::int64_t rows);

/// Root mean square of other - reference over counted items, each output in units of the
/// reference's standard deviation there: 0.02 is 2% of how much the behaviour varies. Outputs that
/// do not vary are left out; 0 where none is left. Both [items, outputs].
double output_error(std::span<const float> other, std::span<const float> reference,
                    std::span<const std::uint8_t> counted, std::size_t outputs);

}  // namespace cortex
