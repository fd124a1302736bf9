#pragma once

#include <cortex/result.h>

#include <string>
#include <vector>

#include "data/recording.h"

namespace cortex {

/// Velocity of a position: at each sample the slope of the straight line fitted by least squares to
/// the samples of the last 50 ms (at least two), so it uses the past alone and runs half of that
/// behind. NaN where a gap (over 3 median periods) or a NaN leaves fewer than two samples. The unit
/// gains "/s", "_pos" in the name becomes "_vel" (else "_vel" is added).
BehaviorSeries velocity_of(const BehaviorSeries& position);

/// Sets `recording.target` to the path of what `target` asks for, adding a series where it has to
/// be made, and says in words what was chosen:
/// - a series by the end of its path, e.g. "hand_vel" or "/acquisition/lever/force";
/// - a group of series of one dimension and equal times, e.g. "acquisition/finger_vel", as one;
/// - "X_vel" where there is only "X_pos", and "velocity:PATH": the velocity of a position;
/// - "auto" or empty: what the file's layout decodes, else hand_vel, finger_vel, cursor_vel, any
///   other velocity, the velocity of hand_pos, finger_pos, cursor_pos or any other position, or
///   the only series. Nothing, and no error, in a file without behaviour.
/// Where the layout has a mask, the target becomes NaN wherever the mask's last sample is 0 or lies
/// a gap back. not_found lists the series there are; invalid_argument: several fit.
Result<std::string> choose_target(Recording& recording, const std::string& target);

}  // namespace cortex
