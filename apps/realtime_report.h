#pragma once

#include <cortex/realtime.h>

#include <span>
#include <string>

#include "core/json_writer.h"

namespace cortex {

inline constexpr const char* kRealtimeHelp =
    "Lock memory, pin the compute thread and run it under SCHED_FIFO; prints what the system "
    "grants and refuses (docs/realtime.md)";

inline constexpr const char* kDeviceHelp =
    "cpu, cuda:N (the N-th GPU), or auto: the first GPU that this build and machine can use, else "
    "the CPU";

/// One line a grant or refusal, each with its newline; nothing where real-time was not asked for.
std::string realtime_lines(std::span<const RealtimeGrant> grants);

/// "realtime": [{what, granted, detail}], or null where it was not asked for.
void write_realtime(JsonWriter& json, std::span<const RealtimeGrant> grants);

}  // namespace cortex
