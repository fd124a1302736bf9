#pragma once

#include <memory>

#include "model/forward.h"
#include "model/stream_model.h"
#include "model/weights.h"

/// The classical decoders as streams, so that a lab's own baseline runs behind the same sessions.
///
/// Ridge (Wiener filter):  y_s = b + sum over lags l, units u of W[l, u] n_{s-l, u}
/// Kalman filter, steady-state gain (Wu et al. 2006):
///     x_s = U x_{s-1} + sum over units u of G[u] n_{s,u} + g,   x_{-1} = 0,   y_s = H x_s
///     x_s = P x_{s-1}   where `skip_empty_steps` and the step has no spike
/// n are spike counts of a step. y is then scaled by output.std and moved by output.mean.
///
/// A session of a ridge decoder keeps the events of its last `receptive_steps` steps, nothing else.
/// That of a Kalman filter keeps x in its first page, in float64, computed at every step from the
/// session's first one on: exact, and of a size that never changes. Only a silence longer than
/// `window_steps` is cut short, when the state before it has lost all influence: see
/// forgets_within().
namespace cortex {

/// `file.config.linear()`. `capacity`: most steps a forward takes; the pool outlives the decoder.
/// Exception corrupt_data: the filter does not forget within its memory.
std::unique_ptr<StreamForward> make_linear_stream(const ModelFile& file, int capacity,
                                                  const StreamPages& pages);

/// Whether `matrix` [n, n], applied `steps` times, leaves less than a 1e-9th of any state.
bool forgets_within(std::span<const float> matrix, int n, int steps);

}  // namespace cortex
