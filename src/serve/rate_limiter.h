#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "core/clock.h"

namespace cortex {

/// A token bucket a client: `rate` requests a second, and as many at once after a second's rest.
/// Network thread.
class RateLimiter {
 public:
  struct Bucket {
    double tokens = 0;
    TimeNs filled_ns = 0;
  };

  /// 0: no limit.
  explicit RateLimiter(double rate) : rate_(rate) {}

  /// Whether `client` may have one more request now.
  bool take(std::string_view client, TimeNs now) {
    if (rate_ <= 0) return true;
    const auto found = buckets_.find(client);
    if (found != buckets_.end()) return take(found->second, now);
    if (buckets_.size() >= kMostClients) forget_rested(now);
    return take(
        buckets_.emplace(std::string(client), Bucket{std::max(rate_, 1.0), now}).first->second,
        now);
  }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };
  /// Addresses come and go; a bucket that is full again says nothing.
  static constexpr std::size_t kMostClients = 10'000;

  double tokens_at(const Bucket& bucket, TimeNs now) const {
    const double earned = rate_ * static_cast<double>(now - bucket.filled_ns) * 1e-9;
    return std::min(std::max(rate_, 1.0), bucket.tokens + earned);
  }
  bool take(Bucket& bucket, TimeNs now) {
    bucket.tokens = tokens_at(bucket, now);
    bucket.filled_ns = now;
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    return true;
  }
  void forget_rested(TimeNs now) {
    std::erase_if(buckets_,
                  [&](const auto& entry) { return tokens_at(entry.second, now) >= rate_; });
    if (buckets_.size() >= kMostClients) buckets_.clear();
  }

  const double rate_;
  std::unordered_map<std::string, Bucket, Hash, std::equal_to<>> buckets_;
};

}  // namespace cortex
