#pragma once

#include <cortex/engine.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "core/clock.h"

namespace cortex {

struct ServedModel;

/// A sequence of the Open Inference Protocol: a session that a client names by an id of its own.
struct Sequence {
  std::shared_ptr<ServedModel> model;
  SessionId session = 0;
  std::int64_t next_step = 0;
  int in_flight = 0;
  bool is_ending = false;
  bool drop_out_of_step = false;
  TimeNs used_ns = 0;
};

using SequenceRef = std::shared_ptr<Sequence>;

/// Sequences by tenant, model and id, so that no tenant meets another's. Network thread.
class SequenceTable {
 public:
  static std::string key(std::string_view tenant, std::string_view model, std::string_view id);

  SequenceRef find(const std::string& key) const;
  /// Closes the one that had the key before.
  void put(const std::string& key, SequenceRef sequence);
  /// Closes the session of a sequence and forgets it, where it is still the one of its key.
  void end(const std::string& key, const SequenceRef& sequence);
  /// Forgets those without a request for longer than `idle_ns`.
  void expire(TimeNs now, TimeNs idle_ns);
  std::size_t size() const { return sequences_.size(); }

 private:
  std::unordered_map<std::string, SequenceRef> sequences_;
};

}  // namespace cortex
