#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cache/page_pool.h"

namespace cortex {

/// Which sessions there are and which pages each holds. A session is live from open() to close();
/// then nobody finds it any more, but its pages stay its own until release(), since a step of it
/// may still be running. `T` is what the owner keeps of a session. No clock, no lock.
template <class T>
class SessionTable {
 public:
  SessionTable(std::int32_t pages, std::int32_t pages_per_session)
      : pool_(pages), pages_per_session_(pages_per_session) {}

  struct Opened {
    std::uint64_t id = 0;  ///< counts from 1, never used again
    std::vector<std::int32_t> pages;
  };
  /// resource_exhausted where the pages of its full context cannot be reserved.
  Result<Opened> open() {
    auto pages = pool_.acquire(pages_per_session_);
    if (!pages) return pages.error();
    live_.emplace(++last_id_, Entry{T{}, *pages});
    return Opened{last_id_, *std::move(pages)};
  }
  /// Null: not live. Valid until the session is closed.
  T* find(std::uint64_t id) {
    const auto found = live_.find(id);
    return found == live_.end() ? nullptr : &found->second.value;
  }
  /// False: it is not live.
  bool close(std::uint64_t id) {
    const auto found = live_.find(id);
    if (found == live_.end()) return false;
    closing_.emplace(id, std::move(found->second.pages));
    live_.erase(found);
    return true;
  }
  /// Closes the sessions whose value `idle` says yes to; their ids.
  template <class Idle>
  std::vector<std::uint64_t> close_if(Idle idle) {
    std::vector<std::uint64_t> closed;
    for (auto& [id, entry] : live_)
      if (idle(entry.value)) closed.push_back(id);
    for (const std::uint64_t id : closed) (void)close(id);
    return closed;
  }
  /// Nothing of a closed session runs any more. False: it is not one, and nothing changes.
  bool release(std::uint64_t id) {
    const auto found = closing_.find(id);
    if (found == closing_.end() || !pool_.release(found->second)) return false;
    closing_.erase(found);
    return true;
  }
  template <class Visit>
  void for_each(Visit visit) const {
    for (const auto& [id, entry] : live_) visit(entry.value);
  }

  std::int64_t live() const { return static_cast<std::int64_t>(live_.size()); }
  std::int64_t closing() const { return static_cast<std::int64_t>(closing_.size()); }
  std::int32_t pages_used() const { return pool_.used(); }
  std::int32_t pages_total() const { return pool_.total(); }

 private:
  struct Entry {
    T value;
    std::vector<std::int32_t> pages;
  };
  PagePool pool_;
  std::int32_t pages_per_session_;
  std::unordered_map<std::uint64_t, Entry> live_;
  std::map<std::uint64_t, std::vector<std::int32_t>> closing_;
  std::uint64_t last_id_ = 0;
};

}  // namespace cortex
