#pragma once

#include <cstdint>
#include <vector>

#include "core/clock.h"

namespace cortex {

/// What each tenant holds, and which of them have asked for something lately.
class Tenants {
 public:
  struct Tenant {
    int windows = 0;  ///< taken and not yet answered
    int sessions = 0;
    double step_rate_hz = 0;    ///< reserved
    TimeNs background_due = 0;  ///< of the last work that was taken without a promise
  };

  /// A tenant is active for `active_for` after it asked.
  Tenants(int tenants, TimeNs active_for);

  bool known(std::uint32_t tenant) const { return tenant < tenants_.size(); }
  Tenant& operator[](std::uint32_t tenant) { return tenants_[tenant]; }
  const Tenant& operator[](std::uint32_t tenant) const { return tenants_[tenant]; }
  /// The tenant asks for something.
  void touch(std::uint32_t tenant, TimeNs now);
  /// At least 1.
  int active() const { return active_ > 0 ? active_ : 1; }

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  struct Link {
    std::uint32_t older = kNone;
    std::uint32_t newer = kNone;
    TimeNs asked = 0;
    bool active = false;
  };
  void take_out(std::uint32_t tenant);

  std::vector<Tenant> tenants_;
  std::vector<Link> links_;  // the active ones in the order in which they last asked
  std::uint32_t oldest_ = kNone;
  std::uint32_t newest_ = kNone;
  int active_ = 0;
  TimeNs active_for_;
};

}  // namespace cortex
