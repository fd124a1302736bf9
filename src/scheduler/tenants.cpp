#include "scheduler/tenants.h"

namespace cortex {

Tenants::Tenants(int tenants, TimeNs active_for)
    : tenants_(static_cast<std::size_t>(tenants)),
      links_(tenants_.size()),
      active_for_(active_for) {}

void Tenants::take_out(std::uint32_t tenant) {
  Link& link = links_[tenant];
  (link.older == kNone ? oldest_ : links_[link.older].newer) = link.newer;
  (link.newer == kNone ? newest_ : links_[link.newer].older) = link.older;
  link.active = false;
  --active_;
}

void Tenants::touch(std::uint32_t tenant, TimeNs now) {
  if (links_[tenant].active) take_out(tenant);
  links_[tenant] = {newest_, kNone, now, true};
  (newest_ == kNone ? oldest_ : links_[newest_].newer) = tenant;
  newest_ = tenant;
  ++active_;
  while (now - links_[oldest_].asked > active_for_) take_out(oldest_);
}

}  // namespace cortex
