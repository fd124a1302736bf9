#include "cache/page_pool.h"

#include <fmt/format.h>

#include <algorithm>

namespace cortex {

PagePool::PagePool(std::int32_t pages) : taken_(static_cast<std::size_t>(pages), false) {
  free_.reserve(taken_.size());
  for (std::int32_t p = pages; p-- > 0;) free_.push_back(p);
}

Result<std::vector<std::int32_t>> PagePool::acquire(std::int32_t count) {
  if (count > static_cast<std::int32_t>(free_.size()))
    return Error{ErrorCode::resource_exhausted,
                 fmt::format("a session needs {} cache pages, {} of {} are free", count,
                             free_.size(), total()),
                 "sessions"};
  std::vector<std::int32_t> pages(free_.end() - count, free_.end());
  free_.resize(free_.size() - static_cast<std::size_t>(count));
  for (const std::int32_t p : pages) taken_[static_cast<std::size_t>(p)] = true;
  return pages;
}

Result<void> PagePool::release(const std::vector<std::int32_t>& pages) {
  for (auto p = pages.begin(); p != pages.end(); ++p)
    if (*p < 0 || *p >= total() || !taken_[static_cast<std::size_t>(*p)] ||
        std::find(pages.begin(), p, *p) != p)
      return Error{ErrorCode::invalid_argument, fmt::format("page {} is not taken", *p), "pages"};
  for (const std::int32_t p : pages) {
    taken_[static_cast<std::size_t>(p)] = false;
    free_.push_back(p);
  }
  return {};
}

}  // namespace cortex
