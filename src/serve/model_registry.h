#pragma once

#include <cortex/engine.h>
#include <cortex/result.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "serve/batch_watch.h"
#include "serve/mailbox.h"
#include "serve/server.h"
#include "serve/worker.h"

namespace cortex {

/// Share of the time that an engine computes, of the last second and some.
class Utilisation {
 public:
  bool is_due(TimeNs now) const { return now - at_ >= kEveryNs; }
  /// EngineStats::busy_ns at `now`.
  void sample(TimeNs now, std::int64_t busy_ns) {
    if (at_ > 0) share_ = static_cast<double>(busy_ns - busy_ns_) / static_cast<double>(now - at_);
    at_ = now;
    busy_ns_ = busy_ns;
  }
  double share() const { return share_; }

 private:
  static constexpr TimeNs kEveryNs = 1'000'000'000;
  TimeNs at_ = 0;
  std::int64_t busy_ns_ = 0;
  double share_ = 0;
};

/// A model as one load brought it in. Requests, sockets and sequences hold on to the one that they
/// began with, so a reload takes nothing from them; when the last has let go, the engine ends.
struct ServedModel {
  std::string name;
  std::int64_t version = 0;  ///< counts the loads of this name, from 1
  Engine* engine = nullptr;
  std::unique_ptr<Engine> owned;  ///< null: the caller of attach() keeps it
  BatchWatch batches;
  std::int64_t withheld = 0;  ///< in time by the engine, and too late for its client
  std::int64_t late = 0;      ///< likewise, and handed over all the same
  Utilisation utilisation;
};

using ModelRef = std::shared_ptr<ServedModel>;

/// Which models there are, by name. Network thread; loading happens on a thread of its own.
class ModelRegistry {
 public:
  enum class Status { loading, ready, unavailable };
  struct Entry {
    NamedModel source;
    Status status = Status::unavailable;
    std::string reason = {};  ///< why the last load failed; empty: it did not
    std::int64_t loads = 0;
    ModelRef current = {};
  };
  using Done = std::function<void(const Result<ModelRef>&)>;

  ModelRegistry(EngineFactory factory, std::string repository, Tracer& tracer, Mailbox& mailbox);
  ~ModelRegistry();

  /// A model that is there already; the caller keeps it.
  void attach(const std::string& name, Engine& engine);

  /// Loads `name` from where it was declared, or from the repository. What is served under the name
  /// goes on until the new one is warm, and stays if the load fails.
  void declare(const NamedModel& source);
  void load(const std::string& name, Done done);
  /// New requests are refused; what has begun is finished.
  void unload(const std::string& name, Done done);

  /// The model of a name; empty: the first that was declared. not_found or unavailable (loading).
  Result<ModelRef> find(std::string_view name) const;
  const Entry* entry(std::string_view name) const;
  const std::vector<Entry>& entries() const { return entries_; }
  /// What is alive, current or not: old ones go on with their sessions.
  std::vector<ModelRef> alive() const;
  /// Whether something is served and nothing is being loaded for the first time.
  bool is_ready() const;

  /// Ends every engine: what it holds is answered. Nothing may be asked of a model afterwards.
  void shut_down();

 private:
  struct Job;

  Entry* find_entry(std::string_view name);
  Result<Entry*> entry_to_load(const std::string& name);
  ModelRef make_model(Entry& entry, std::unique_ptr<Engine> owned, Engine* engine);
  void finish(Job& job);

  const EngineFactory factory_;
  const std::string repository_;
  Tracer& tracer_;
  Mailbox& mailbox_;
  std::vector<Entry> entries_;
  std::vector<std::weak_ptr<ServedModel>> alive_;
  int queued_ = 0;
  bool shut_ = false;
  std::unique_ptr<Worker> worker_;
};

/// Whether a name may be a model's: letters, digits, '.', '_' and '-', not beginning with a dot.
bool is_model_name(std::string_view name);

}  // namespace cortex
