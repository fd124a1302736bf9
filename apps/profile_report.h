#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/profiling_ops.h"

namespace cortex {

/// What a profile says of its run.
struct ProfileContext {
  std::string model;
  std::string backend;
  std::string precision;
  int batch = 1;
  int events = 0;  ///< a step or window
  std::int64_t parameters = 0;
  double p50_us = 0;  ///< of a whole forward, as its caller sees it
  double p99_us = 0;
  Ceilings ceilings;
};

/// One section of a forward, with its operations in the order they first ran.
struct ProfileSection {
  std::string name;
  ProfileEntry total;
  std::vector<ProfileEntry> operations;
};
std::vector<ProfileSection> group_sections(std::span<const ProfileEntry> entries);

/// A table: time, share, GFLOP/s, bytes and share of the floor by section and operation, each a
/// forward's mean.
std::string profile_text(const ProfilingOps& profile, const ProfileContext& context);
/// One JSON object, without a newline.
std::string profile_json(const ProfilingOps& profile, const ProfileContext& context);

}  // namespace cortex
