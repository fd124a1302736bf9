#include "serve/sequence_table.h"

#include <utility>

#include "serve/model_registry.h"

namespace cortex {
namespace {

void close_session(const Sequence& sequence) {
  if (sequence.model->engine == nullptr) return;
  // One that the engine expired is gone already.
  [[maybe_unused]] const auto closed = sequence.model->engine->close_session(sequence.session);
}

}  // namespace

std::string SequenceTable::key(std::string_view tenant, std::string_view model,
                               std::string_view id) {
  // Neither a tenant's nor a model's name has a slash.
  std::string text(tenant);
  text += '/';
  text += model;
  text += '/';
  text += id;
  return text;
}

SequenceRef SequenceTable::find(const std::string& key) const {
  const auto found = sequences_.find(key);
  return found == sequences_.end() ? nullptr : found->second;
}

void SequenceTable::put(const std::string& key, SequenceRef sequence) {
  SequenceRef& slot = sequences_[key];
  if (slot) close_session(*slot);
  slot = std::move(sequence);
}

void SequenceTable::end(const std::string& key, const SequenceRef& sequence) {
  const auto found = sequences_.find(key);
  if (found == sequences_.end() || found->second != sequence) return;
  sequences_.erase(found);
  close_session(*sequence);
}

void SequenceTable::expire(TimeNs now, TimeNs idle_ns) {
  std::erase_if(sequences_, [&](const auto& entry) {
    const Sequence& sequence = *entry.second;
    if (sequence.in_flight > 0 || now - sequence.used_ns <= idle_ns) return false;
    close_session(sequence);
    return true;
  });
}

}  // namespace cortex
