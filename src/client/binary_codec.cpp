#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "client/frame_codec.h"

namespace cortex {
namespace {

static_assert(std::endian::native == std::endian::little, "the frames are little-endian");
static_assert(sizeof(Event) == 16, "an event goes over the wire as it lies in memory");

enum Type : std::uint8_t {
  kOpen = 1,
  kStep = 2,
  kClose = 3,
  kOpened = 129,
  kAnswer = 130,
  kClosed = 131,
  kError = 132
};
constexpr std::uint8_t kVersion = 1;
constexpr std::uint16_t kBestEffort = 1;
constexpr std::uint16_t kNoBestEffort = 2;
constexpr std::uint16_t kAllowMissingUnits = 4;
constexpr std::uint16_t kDropOutOfStep = 8;
constexpr std::size_t kMostString = 0xffff;

std::uint16_t effort_flags(const std::optional<bool>& best_effort) {
  return !best_effort ? std::uint16_t{0} : *best_effort ? kBestEffort : kNoBestEffort;
}
std::uint64_t microseconds(const std::optional<double>& ms) {
  return ms ? static_cast<std::uint64_t>(std::llround(*ms * 1e3)) : 0;
}
double milliseconds(std::int64_t ns) { return static_cast<double>(ns) * 1e-6; }

class FrameWriter {
 public:
  void begin(Type type, std::uint16_t flags, std::size_t count, std::int64_t sequence) {
    out_.clear();
    put(kVersion);
    put(static_cast<std::uint8_t>(type));
    put(flags);
    put(static_cast<std::uint32_t>(count));
    put(sequence);
  }
  template <class T>
  void put(T value) {
    put_bytes(&value, sizeof value);
  }
  void put(const std::string& text) {
    const std::size_t n = std::min(text.size(), kMostString);
    put(static_cast<std::uint16_t>(n));
    put_bytes(text.data(), n);
  }
  void put_bytes(const void* bytes, std::size_t n) {
    out_.append(static_cast<const char*>(bytes), n);
  }
  std::string_view frame() const { return out_; }

 private:
  std::string out_;
};

/// Reads fields one after another; past the end all are 0 and `ok` is false.
class FrameReader {
 public:
  explicit FrameReader(std::string_view frame) : rest_(frame) {}

  template <class T>
  T take() {
    T value{};
    take_bytes(&value, sizeof value);
    return value;
  }
  std::string take_string() {
    std::string text(take<std::uint16_t>(), '\0');
    take_bytes(text.data(), text.size());
    return text;
  }
  void take_bytes(void* into, std::size_t n) {
    if (n > rest_.size()) {
      ok_ = false;
      rest_ = {};
      return;
    }
    if (n == 0) return;  // into a withheld output's nowhere
    std::memcpy(into, rest_.data(), n);
    rest_.remove_prefix(n);
  }
  void fail() { ok_ = false; }
  std::size_t left() const { return rest_.size(); }
  bool at_end() const { return ok_ && rest_.empty(); }
  bool ok() const { return ok_; }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

Error bad_frame(const std::string& why) {
  return {ErrorCode::corrupt_data, "the server's frame " + why, ""};
}

struct Header {
  std::uint16_t flags = 0;
  std::uint32_t count = 0;
  std::int64_t sequence = 0;
};

StreamInfo take_opened(FrameReader& r, const Header& h) {
  StreamInfo info;
  info.kind = h.flags == 0 ? "stream" : "window";
  info.next_sequence = h.sequence;
  info.session_id = fmt::format("{}", r.take<std::uint64_t>());
  info.bin_ms = r.take<double>();
  info.step_ms = r.take<double>();
  info.target_offset_ms = r.take<double>();
  const auto take_int = [&r] { return static_cast<int>(r.take<std::uint32_t>()); };
  info.bins_per_step = take_int();
  info.units = take_int();
  info.max_events = take_int();
  info.max_queued_steps = take_int();
  info.window_steps = take_int();
  info.context_steps = take_int();
  (void)take_int();  // max_bins
  (void)take_int();
  info.rate_hz = r.take<double>();
  info.model = r.take_string();
  info.preset = r.take_string();
  info.precision = r.take_string();
  info.digest = r.take_string();
  for (std::uint32_t i = 0; i < h.count && r.ok(); ++i) {
    OutputInfo output;
    output.name = r.take_string();
    output.unit = r.take_string();
    info.outputs.push_back(std::move(output));
  }
  return info;
}

StreamAnswer take_answer(FrameReader& r, const Header& h) {
  StreamAnswer answer;
  answer.sequence = h.sequence;
  answer.status = h.flags == 0   ? StepStatus::fresh
                  : h.flags == 1 ? StepStatus::late
                                 : StepStatus::refused;
  answer.latency_ms = milliseconds(r.take<std::int64_t>());
  answer.queue_wait_ms = milliseconds(r.take<std::int64_t>());
  answer.inference_ms = milliseconds(r.take<std::int64_t>());
  answer.dropped_events = r.take<std::int64_t>();
  const std::size_t bytes = std::size_t{h.count} * sizeof(float);
  // Nothing is allocated on the word of a count alone; what is left over is an error.
  if (r.left() == bytes) {
    answer.behavior.resize(h.count);
    r.take_bytes(answer.behavior.data(), bytes);
  } else {
    r.fail();
  }
  return answer;
}

SessionSummary take_closed(FrameReader& r) {
  SessionSummary summary;
  summary.steps = r.take<std::int64_t>();
  summary.late = r.take<std::int64_t>();
  summary.refused = r.take<std::int64_t>();
  summary.dropped_events = r.take<std::int64_t>();
  summary.p50_us = r.take<double>();
  summary.p99_us = r.take<double>();
  summary.p999_us = r.take<double>();
  summary.max_us = r.take<double>();
  return summary;
}

Refusal take_error(FrameReader& r, const Header& h) {
  Refusal refusal;
  refusal.status = h.flags;
  if (h.sequence >= 0) refusal.sequence = h.sequence;
  const auto expected = r.take<std::int64_t>();
  if (expected >= 0) refusal.expected = expected;
  refusal.error.code = error_code_of(r.take_string(), refusal.status);
  refusal.error.message = r.take_string();
  refusal.error.field = r.take_string();
  return refusal;
}

class BinaryCodec final : public FrameCodec {
 public:
  const char* path() const override { return "/v1/stream"; }
  websocket::Opcode opcode() const override { return websocket::Opcode::binary; }

  std::string_view open(const OpenOptions& options) override {
    const SessionOptions& s = options.session;
    auto flags = effort_flags(options.best_effort);
    if (s.allow_missing_units) flags |= kAllowMissingUnits;
    if (s.drop_out_of_step) flags |= kDropOutOfStep;
    writer_.begin(kOpen, flags, s.unit_ids.size(), s.first_step);
    writer_.put(microseconds(options.deadline_ms));
    writer_.put(options.rate_hz);
    writer_.put(options.model);
    for (const std::string& id : s.unit_ids) writer_.put(id);
    return writer_.frame();
  }

  std::string_view step(const StreamStep& step) override {
    writer_.begin(kStep, effort_flags(step.best_effort), step.events.size(), step.sequence);
    writer_.put(step.gap);
    writer_.put(microseconds(step.deadline_ms));
    writer_.put_bytes(step.events.data(), step.events.size_bytes());
    return writer_.frame();
  }

  std::string_view close() override {
    writer_.begin(kClose, 0, 0, 0);
    return writer_.frame();
  }

  Result<ServerFrame> parse(std::string_view frame) override {
    FrameReader r(frame);
    const auto version = r.take<std::uint8_t>();
    const auto type = r.take<std::uint8_t>();
    Header h;
    h.flags = r.take<std::uint16_t>();
    h.count = r.take<std::uint32_t>();
    h.sequence = r.take<std::int64_t>();
    if (!r.ok()) return bad_frame("is shorter than its header");
    if (version != kVersion) return bad_frame(fmt::format("has version {}, not 1", version));
    std::optional<ServerFrame> parsed;
    if (type == kOpened) parsed = take_opened(r, h);
    if (type == kAnswer) parsed = take_answer(r, h);
    if (type == kClosed) parsed = take_closed(r);
    if (type == kError) parsed = take_error(r, h);
    if (!parsed) return bad_frame(fmt::format("is of the unknown type {}", type));
    if (!r.at_end())
      return bad_frame(
          fmt::format("of type {} has {} bytes, not those of its fields", type, frame.size()));
    return *std::move(parsed);
  }

 private:
  FrameWriter writer_;
};

}  // namespace

std::unique_ptr<FrameCodec> make_binary_codec() { return std::make_unique<BinaryCodec>(); }

}  // namespace cortex
