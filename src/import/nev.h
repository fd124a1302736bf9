#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <span>
#include <string>

#include "data/recording.h"

namespace cortex {

/// Spikes of a Blackrock NEV file, versions 2.2, 2.3 (NEURALEV) and 3.0 (BREVENTS), as Blackrock's
/// file format documents them. A unit is an electrode and a class: id = 100 * electrode + class,
/// class 0 what was not sorted, 1 to 16 the sorted units; class 255, noise, is left out. Times
/// count from the clock's zero, or from the first packet where that lies over 10 days behind
/// (clocks of the epoch); `session_start_time` is the header's time of origin. Other packets
/// (digital, comments, video, tracking, triggers, configuration) hold no spikes and are passed
/// over.
///
/// Errors: unsupported (another version, an unknown kind of header or packet: named with its byte),
/// corrupt_data (sizes that do not add up, a truncated packet, a class that is none, a clock that
/// goes back by over a second, which a restarted recording leaves behind).
Result<Recording> read_nev(std::span<const std::byte> bytes, const std::string& name);

}  // namespace cortex
