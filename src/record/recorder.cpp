#include "record/recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

#include "core/clock.h"
#include "core/json_writer.h"
#include "core/log.h"
#include "core/thread.h"

namespace cortex::record {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;
/// So many of the largest records fit into the ring.
constexpr std::size_t kLargest = 8;

std::size_t largest_record(const ModelInfo& model) {
  const std::size_t step =
      sizeof(StepBody) + static_cast<std::size_t>(model.max_events) * sizeof(Event);
  const std::size_t answer = sizeof(AnswerBody) + model.outputs.size() * sizeof(float);
  return sizeof(RecordHeader) + padded(std::max(step, answer));
}

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

void append(std::vector<std::byte>& to, Kind kind, std::span<const std::byte> body,
            std::byte filling) {
  const RecordHeader header{static_cast<std::uint32_t>(sizeof(RecordHeader) + padded(body.size())),
                            kind, 0};
  const auto head = bytes_of(header);
  to.insert(to.end(), head.begin(), head.end());
  to.insert(to.end(), body.begin(), body.end());
  to.insert(to.end(), padded(body.size()) - body.size(), filling);
}

void append_json(std::vector<std::byte>& to, Kind kind, const std::string& json) {
  append(to, kind, std::as_bytes(std::span(json)), std::byte{' '});
}

std::string about(const ModelInfo& model) {
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  JsonWriter w;
  w.begin_object().key("cortex").value(CORTEX_VERSION);
  w.key("wall_ns").value(
      std::int64_t{std::chrono::duration_cast<std::chrono::nanoseconds>(wall).count()});
  w.key("monotonic_ns").value(RealClock::instance().now());
  w.key("model").value(model.path).key("digest").value(model.digest);
  w.key("kind").value(model.kind).key("preset").value(model.preset);
  w.key("precision").value(model.precision).key("backend").value(model.backend);
  w.key("bin_ms").value(model.bin_ms).key("step_ms").value(model.step_ms);
  w.key("bins_per_step").value(model.bins_per_step);
  w.key("context_steps").value(model.context_steps);
  w.key("target_offset_ms").value(model.target_offset_ms);
  w.key("outputs").begin_array();
  for (const OutputInfo& output : model.outputs)
    w.begin_object().key("name").value(output.name).key("unit").value(output.unit).end_object();
  w.end_array().key("units").begin_array();
  for (const std::string& id : model.unit_ids) w.value(id);
  w.end_array().end_object();
  return w.text();
}

}  // namespace

Result<std::unique_ptr<Recorder>> Recorder::create(const std::string& path, const ModelInfo& model,
                                                   const RecorderOptions& options,
                                                   RecorderCounters& counters) {
  auto file = LogFile::create(path);
  if (!file) return file.error();
  std::vector<std::byte> first;
  append_json(first, Kind::about, about(model));
  if (auto ok = file->append(first); !ok) return ok.error();
  return std::unique_ptr<Recorder>(new Recorder(*std::move(file), model, options, counters));
}

Recorder::Recorder(LogFile file, const ModelInfo& model, const RecorderOptions& options,
                   RecorderCounters& counters)
    : file_(std::move(file)),
      options_(options),
      counters_(counters),
      ring_(std::max(options.ring_bytes, kLargest * largest_record(model))) {
  // Notes of sessions stand before the steps.
  block_.reserve(kBlockBytes + std::max(kBlockBytes, 2 * largest_record(model)));
  thread_ = std::thread([this] { run(); });
}

Recorder::~Recorder() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
  if (failing_) --counters_.failing;
}

void Recorder::opened(const SessionInfo& session, const SessionOptions& options) {
  JsonWriter w;
  w.begin_object().key("session").value(std::uint64_t{session.id});
  w.key("monotonic_ns").value(RealClock::instance().now());
  w.key("first_step").value(options.first_step);
  w.key("allow_missing_units").value(options.allow_missing_units);
  w.key("drop_out_of_step").value(options.drop_out_of_step);
  w.key("units").begin_array();
  for (const std::string& id : options.unit_ids) w.value(id);
  w.end_array().end_object();
  note(Kind::opened, w.text());
}

void Recorder::closed(SessionId session, const SessionSummary& summary) {
  JsonWriter w;
  w.begin_object().key("session").value(std::uint64_t{session});
  w.key("monotonic_ns").value(RealClock::instance().now());
  w.key("steps").value(summary.steps).key("late").value(summary.late);
  w.key("refused").value(summary.refused).key("dropped_events").value(summary.dropped_events);
  w.end_object();
  note(Kind::closed, w.text());
}

void Recorder::note(Kind kind, const std::string& json) {
  const std::lock_guard lock(mutex_);
  // While nothing can be written, no more than this is kept.
  if (notes_.size() > ring_.capacity()) return lose(1);
  append_json(notes_, kind, json);
}

void Recorder::step(const StepRequest& request) noexcept {
  const StepBody body{request.session,
                      request.sequence,
                      request.gap,
                      request.deadline_ns,
                      request.best_effort ? 1U : 0U,
                      static_cast<std::uint32_t>(request.events.size())};
  if (!ring_.put(Kind::step, {bytes_of(body), std::as_bytes(request.events)})) lose(1);
}

void Recorder::answer(const StepAnswer& answer) noexcept {
  const AnswerBody body{
      answer.session,
      answer.sequence,
      answer.submitted_ns,
      answer.started_ns,
      answer.finished_ns,
      answer.dropped_events,
      answer.batch.size,
      static_cast<std::uint8_t>(answer.status),
      static_cast<std::uint8_t>(answer.error ? static_cast<int>(answer.error->code) + 1 : 0),
      static_cast<std::uint16_t>(answer.behavior.size())};
  if (!ring_.put(Kind::answer, {bytes_of(body), std::as_bytes(answer.behavior)})) lose(1);
}

void Recorder::run() {
  name_this_thread("cortex-record");
  // A file at its limit of size is an error of write(), not the end of the process.
  sigset_t too_large;
  sigemptyset(&too_large);
  sigaddset(&too_large, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &too_large, nullptr);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait_for(lock, options_.sync_every, [this] { return stopping_; });
    lock.unlock();
    write_all();
    lock.lock();
  }
  lock.unlock();
  write_all();
  if (!failing_) write_end();
}

void Recorder::write_end() {
  block_.clear();
  append(block_, Kind::end, {}, std::byte{0});
  if (const auto written = file_.append(block_); !written)
    log::error(fmt::format("{}: the log has no end", written.error().message));
}

void Recorder::write_all() {
  // No further than what is there now: the thread sleeps between two syncs however busy it is.
  const std::uint64_t end = ring_.end();
  while (write_block(end)) {
  }
  const std::int64_t lost = lost_.load(std::memory_order_relaxed);
  counters_.lost.add(lost - std::exchange(counted_, lost));
}

bool Recorder::write_block(std::uint64_t end) {
  block_.clear();
  std::size_t noted = 0;
  {
    // Before the ring: whatever a step in it belongs to has been noted by now.
    const std::lock_guard lock(mutex_);
    noted = notes_.size();
    block_.insert(block_.end(), notes_.begin(), notes_.end());
  }
  const std::int64_t lost = lost_.load(std::memory_order_relaxed);
  if (lost > told_) {
    const LostBody body{lost - told_};
    append(block_, Kind::lost, bytes_of(body), std::byte{0});
  }
  const std::size_t begun = block_.size();
  // Notes may be long; a block has room for the largest record besides.
  block_.resize(std::max(block_.capacity(), begun + kBlockBytes));
  const Ring::Taken taken = ring_.take(std::span(block_).subspan(begun), end);
  block_.resize(begun + taken.bytes);
  if (block_.empty()) return false;
  const auto written = file_.append(block_);
  if (!written) {
    lose(taken.records);
    if (!std::exchange(failing_, true)) {
      ++counters_.failing;
      log::error(
          fmt::format("{}: serving goes on, steps are not recorded", written.error().message));
    }
    return taken.records > 0;
  }
  counters_.written.add(taken.records);
  counters_.bytes.add(static_cast<std::int64_t>(block_.size()));
  if (std::exchange(failing_, false)) {
    --counters_.failing;
    log::info(
        fmt::format("{}: recording goes on; {} steps and answers were lost", path(), lost - told_));
  }
  told_ = std::max(told_, lost);
  if (noted > 0) {
    const std::lock_guard lock(mutex_);
    notes_.erase(notes_.begin(), notes_.begin() + static_cast<std::ptrdiff_t>(noted));
  }
  return true;
}

}  // namespace cortex::record
