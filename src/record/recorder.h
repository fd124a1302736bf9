#pragma once

#include <cortex/engine.h>
#include <cortex/result.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "record/log_file.h"
#include "record/ring.h"
#include "telemetry/metrics.h"

namespace cortex::record {

struct RecorderOptions {
  std::size_t ring_bytes = std::size_t{16} << 20;  ///< what may wait for the disk
  std::chrono::milliseconds sync_every{100};       ///< a crash loses what came after the last sync
};

/// What recorders have done, over all files of a process.
struct RecorderCounters {
  Counter written;               ///< steps and answers that are synced
  Counter lost;                  ///< steps and answers that are in no file
  Counter bytes;                 ///< synced
  std::atomic<int> failing = 0;  ///< files that cannot be written at present
};

/// A flight recorder: one file, and the thread that writes it.
///
/// step() and answer() are on the step path: they copy into a ring of fixed size, and count what
/// does not fit. A disk that is full or slow loses records, never answers: the loss is counted,
/// logged and, once there is room, written into the file.
class Recorder {
 public:
  /// Makes the file and syncs what it says of the model. `counters` outlives it. io_error.
  static Result<std::unique_ptr<Recorder>> create(const std::string& path, const ModelInfo& model,
                                                  const RecorderOptions& options,
                                                  RecorderCounters& counters);
  /// Writes what is left, and that this is the end.
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  const std::string& path() const { return file_.path(); }

  void opened(const SessionInfo& session, const SessionOptions& options);
  void closed(SessionId session, const SessionSummary& summary);
  void step(const StepRequest& request) noexcept;
  void answer(const StepAnswer& answer) noexcept;
  /// Counts records that did not get so far.
  void lose(std::int64_t records) noexcept { lost_.fetch_add(records, std::memory_order_relaxed); }

 private:
  Recorder(LogFile file, const ModelInfo& model, const RecorderOptions& options,
           RecorderCounters& counters);

  void note(Kind kind, const std::string& json);
  void run();
  void write_all();
  void write_end();
  /// One block of what there is before `end` in the ring; false: there is nothing, or no room on
  /// disk.
  bool write_block(std::uint64_t end);

  LogFile file_;
  const RecorderOptions options_;
  RecorderCounters& counters_;
  Ring ring_;
  std::atomic<std::int64_t> lost_{0};  // so far
  std::int64_t told_ = 0;              // of them in the file
  std::int64_t counted_ = 0;           // of them in the counters
  bool failing_ = false;
  std::vector<std::byte> block_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::byte> notes_;  // of sessions that opened or closed, not yet in the file
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace cortex::record
