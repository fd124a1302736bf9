#include "serve/codec_binary.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

namespace cortex {
namespace {

static_assert(std::endian::native == std::endian::little, "frames are copied as they lie");
// An event travels as it lies in memory, so a whole step is copied at once.
static_assert(sizeof(Event) == 16 && std::is_trivially_copyable_v<Event>);
static_assert(offsetof(Event, unit) == 0 && offsetof(Event, value) == 4 &&
              offsetof(Event, bin) == 8);

constexpr std::uint8_t kVersion = 1;
enum Type : std::uint8_t {
  kOpen = 1,
  kStep = 2,
  kClose = 3,
  kOpened = 129,
  kAnswer = 130,
  kClosed = 131,
  kError = 132
};
constexpr std::uint16_t kBestEffort = 1;
constexpr std::uint16_t kWithhold = 2;
constexpr std::uint16_t kAllowMissingUnits = 4;
constexpr std::uint16_t kDropOutOfStep = 8;
constexpr std::uint16_t kReserveNothing = 16;
constexpr unsigned kOpenFlags =
    kBestEffort | kWithhold | kAllowMissingUnits | kDropOutOfStep | kReserveNothing;

struct Header {
  std::uint8_t version = kVersion;
  std::uint8_t type = 0;
  std::uint16_t flags = 0;
  std::uint32_t count = 0;
  std::int64_t sequence = 0;
};
static_assert(sizeof(Header) == 16);
struct StepHead {
  std::int64_t gap = 0;
  std::uint64_t deadline_us = 0;
};
struct OpenHead {
  std::uint64_t deadline_us = 0;
  double rate_hz = 0;
};
struct AnswerHead {
  std::int64_t latency_ns = 0;
  std::int64_t queue_wait_ns = 0;
  std::int64_t inference_ns = 0;
  std::int64_t dropped_events = 0;
};
struct OpenedHead {
  std::uint64_t session_id = 0;
  double bin_ms = 0;
  double step_ms = 0;
  double target_offset_ms = 0;
  std::uint32_t bins_per_step = 0;
  std::uint32_t units = 0;
  std::uint32_t max_events = 0;
  std::uint32_t max_queued_steps = 0;
  std::uint32_t window_steps = 0;
  std::uint32_t context_steps = 0;
  std::uint32_t max_bins = 0;
  std::uint32_t zero = 0;
  double rate_hz = 0;
};
static_assert(sizeof(OpenedHead) == 72);

Error bad(std::string field, std::string message) {
  return {ErrorCode::invalid_argument, std::move(message), std::move(field)};
}

/// Reads from the front of a frame; what lies beyond its end reads as nothing and is remembered.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  template <class T>
  T get() {
    T value{};
    if (rest_.size() < sizeof value) {
      short_ = true;
      return value;
    }
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
    return value;
  }
  std::string_view text() {
    const std::size_t n = get<std::uint16_t>();
    if (rest_.size() < n) {
      short_ = true;
      return {};
    }
    const std::string_view out = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return out;
  }
  std::string_view rest() const { return rest_; }
  bool is_short() const { return short_; }

 private:
  std::string_view rest_;
  bool short_ = false;
};

template <class T>
void append(std::string& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_text(std::string& out, std::string_view text) {
  // Cut where a character begins.
  std::size_t n = std::min<std::size_t>(text.size(), std::numeric_limits<std::uint16_t>::max());
  while (n < text.size() && n > 0 && (static_cast<unsigned char>(text[n]) & 0xc0) == 0x80) --n;
  append(out, static_cast<std::uint16_t>(n));
  out.append(text.substr(0, n));
}

/// Whether bytes are UTF-8: what came as a string goes back in messages that are JSON elsewhere.
bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = [&](std::size_t at) {
      return at < text.size() ? static_cast<unsigned char>(text[at]) : 0U;
    };
    const unsigned first = byte(i);
    if (first < 0x80) {
      ++i;
      continue;
    }
    const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4) return false;
    unsigned code = first & (0x3fU >> more);
    for (int k = 1; k <= more; ++k) {
      const unsigned next = byte(i + static_cast<std::size_t>(k));
      if ((next & 0xc0U) != 0x80U) return false;
      code = code << 6 | (next & 0x3fU);
    }
    constexpr unsigned kLeast[] = {0, 0x80, 0x800, 0x10000};
    if (code < kLeast[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    i += static_cast<std::size_t>(more) + 1;
  }
  return true;
}

Result<std::optional<bool>> best_effort_of(std::uint16_t flags) {
  if ((flags & kBestEffort) && (flags & kWithhold))
    return bad("flags", "flags say that best_effort is true and false");
  if (flags & kBestEffort) return std::optional<bool>(true);
  if (flags & kWithhold) return std::optional<bool>(false);
  return std::optional<bool>();
}

Result<std::optional<double>> deadline_of(std::uint64_t us, const char* field) {
  if (us == 0) return std::optional<double>();
  const double ms = static_cast<double>(us) * 1e-3;
  if (ms > kMaxDeadlineMs)
    return bad(field, fmt::format("{} = {} ms must be above 0 and at most {:.0f}", field, ms,
                                  kMaxDeadlineMs));
  return std::optional<double>(ms);
}

Result<void> check_flags(std::uint16_t flags, unsigned known) {
  if ((flags & ~known) == 0) return {};
  return bad("flags", fmt::format("flags = {:#x}: only {:#x} mean something here", flags, known));
}

Result<void> check_range(std::int64_t n, const char* field) {
  if (n >= 0 && n <= kMaxWhole) return {};
  return bad(field, fmt::format("{} = {} is out of range: 0 to {}", field, n, kMaxWhole));
}

Error wrong_length(std::size_t bytes, const std::string& needs) {
  return bad("", fmt::format("the frame has {} bytes; {}", bytes, needs));
}

}  // namespace

Result<StreamFrame> BinaryParser::stream(std::string_view bytes) {
  events_.clear();
  sequence_.reset();
  if (bytes.size() < sizeof(Header)) return wrong_length(bytes.size(), "its header alone has 16");
  const auto header = Reader(bytes).get<Header>();
  if (header.version != kVersion)
    return Error{ErrorCode::unsupported,
                 fmt::format("version = {}: this server speaks version 1", header.version),
                 "version"};
  switch (header.type) {
    case kOpen:
      return open(bytes);
    case kStep:
      return step(bytes);
    case kClose: {
      if (bytes.size() != sizeof(Header))
        return wrong_length(bytes.size(), "close is the header alone, 16");
      if (auto flags = check_flags(header.flags, 0); !flags) return flags.error();
      StreamFrame frame;
      frame.kind = StreamFrame::Kind::close;
      return frame;
    }
    default:
      return bad("type",
                 fmt::format("type = {}: 1 is open, 2 step, 3 close", unsigned{header.type}));
  }
}

Result<StreamFrame> BinaryParser::step(std::string_view bytes) {
  Reader reader(bytes);
  const auto header = reader.get<Header>();
  if (auto ok = check_range(header.sequence, "sequence_number"); !ok) return ok.error();
  sequence_ = header.sequence;
  constexpr std::size_t kFixed = sizeof(Header) + sizeof(StepHead);
  const std::uint64_t length = kFixed + std::uint64_t{header.count} * sizeof(Event);
  if (bytes.size() != length)
    return wrong_length(bytes.size(),
                        fmt::format("a step of {} events has {}", header.count, length));
  const auto head = reader.get<StepHead>();
  if (auto ok = check_flags(header.flags, kBestEffort | kWithhold); !ok) return ok.error();
  if (auto ok = check_range(head.gap, "gap"); !ok) return ok.error();
  const auto deadline = deadline_of(head.deadline_us, "deadline_ms");
  if (!deadline) return deadline.error();
  const auto best_effort = best_effort_of(header.flags);
  if (!best_effort) return best_effort.error();
  events_.resize(header.count);
  if (header.count > 0)
    std::memcpy(events_.data(), reader.rest().data(), header.count * sizeof(Event));
  for (std::size_t i = 0; i < events_.size(); ++i) {
    const Event& e = events_[i];
    const auto check = [i](std::int64_t n, std::int64_t high, const char* name) -> Result<void> {
      if (n >= 0 && n <= high) return {};
      const std::string field = fmt::format("events[{}].{}", i, name);
      return bad(field, fmt::format("{} = {} is out of range: 0 to {}", field, n, high));
    };
    constexpr std::int64_t kInt = std::numeric_limits<std::int32_t>::max();
    if (e.unit >= 0 && e.value >= 0 && e.bin >= 0 && e.bin <= kMaxWhole) continue;
    if (auto ok = check(e.unit, kInt, "neuron_id"); !ok) return ok.error();
    if (auto ok = check(e.bin, kMaxWhole, "time_bin"); !ok) return ok.error();
    if (auto ok = check(e.value, kInt, "value"); !ok) return ok.error();
  }
  StreamFrame frame;
  frame.step = {.sequence = header.sequence,
                .events = events_,
                .gap = head.gap,
                .deadline_ms = *deadline,
                .best_effort = *best_effort};
  return frame;
}

Result<StreamFrame> BinaryParser::open(std::string_view bytes) {
  Reader reader(bytes);
  const auto header = reader.get<Header>();
  const auto head = reader.get<OpenHead>();
  if (auto ok = check_flags(header.flags, kOpenFlags); !ok) return ok.error();
  if (auto ok = check_range(header.sequence, "open.first_step"); !ok) return ok.error();
  const auto deadline = deadline_of(head.deadline_us, "open.deadline_ms");
  if (!deadline) return deadline.error();
  const auto best_effort = best_effort_of(header.flags);
  if (!best_effort) return best_effort.error();
  if (!(head.rate_hz >= 0 && head.rate_hz <= kMaxRateHz))
    return bad("open.rate_hz", fmt::format("open.rate_hz = {} is out of range: 0 to {:.0f}",
                                           head.rate_hz, kMaxRateHz));
  if (header.count > kMaxUnits)
    return Error{ErrorCode::too_large, fmt::format("open.units has more than {} units", kMaxUnits),
                 "open.units"};
  StreamFrame frame;
  frame.kind = StreamFrame::Kind::open;
  OpenFrame& open = frame.open;
  open.deadline_ms = *deadline;
  open.best_effort = *best_effort;
  open.options.first_step = header.sequence;
  open.options.step_rate_hz = head.rate_hz;
  open.options.allow_missing_units = (header.flags & kAllowMissingUnits) != 0;
  open.options.drop_out_of_step = (header.flags & kDropOutOfStep) != 0;
  open.options.best_effort = (header.flags & kReserveNothing) != 0;
  const auto text = [&](const std::string& field) -> Result<std::string> {
    const std::string_view got = reader.text();
    if (got.size() > kMaxIdLength)
      return bad(field, fmt::format("{} has {} bytes; at most {} are allowed", field, got.size(),
                                    kMaxIdLength));
    if (!is_utf8(got)) return bad(field, field + " is not UTF-8");
    return std::string(got);
  };
  auto model = text("open.model");
  if (!model) return model.error();
  open.model = *std::move(model);
  for (std::uint32_t i = 0; i < header.count && !reader.is_short(); ++i) {
    auto unit = text(fmt::format("open.units[{}]", i));
    if (!unit) return unit.error();
    open.options.unit_ids.push_back(*std::move(unit));
  }
  if (reader.is_short() || !reader.rest().empty())
    return wrong_length(bytes.size(),
                        fmt::format("that is {} than its model and {} units take",
                                    reader.is_short() ? "less" : "more", header.count));
  return frame;
}

namespace binary_frames {

void answer(std::string& out, const StepReply& reply) {
  out.clear();
  const bool refused = reply.status == StepStatus::refused;
  const std::size_t outputs = refused ? 0 : reply.behavior.size();
  append(out, Header{.type = kAnswer,
                     .flags = static_cast<std::uint16_t>(reply.status),
                     .count = static_cast<std::uint32_t>(outputs),
                     .sequence = reply.sequence});
  append(out, AnswerHead{.latency_ns = reply.latency_ns,
                         .queue_wait_ns = reply.queue_wait_ns,
                         .inference_ns = reply.inference_ns,
                         .dropped_events = reply.dropped_events.value_or(0)});
  out.append(reinterpret_cast<const char*>(reply.behavior.data()), outputs * sizeof(float));
}

void opened(std::string& out, const OpenedReply& reply) {
  out.clear();
  const ModelInfo& m = reply.model;
  const bool is_stream = m.kind == "stream";
  const auto u32 = [](auto n) { return static_cast<std::uint32_t>(n); };
  append(out, Header{.type = kOpened,
                     .flags = static_cast<std::uint16_t>(is_stream ? 0 : 1),
                     .count = u32(m.outputs.size()),
                     .sequence = reply.next_step});
  append(out, OpenedHead{.session_id = reply.session,
                         .bin_ms = m.bin_ms,
                         .step_ms = is_stream ? m.step_ms : 0,
                         .target_offset_ms = is_stream ? m.target_offset_ms : 0,
                         .bins_per_step = is_stream ? u32(m.bins_per_step) : 0,
                         .units = u32(reply.units),
                         .max_events = u32(m.max_events),
                         .max_queued_steps = u32(reply.max_queued_steps),
                         .window_steps = is_stream ? u32(m.window_steps) : 0,
                         .context_steps = is_stream ? u32(m.context_steps) : 0,
                         .max_bins = is_stream ? 0 : u32(m.max_bins),
                         .rate_hz = reply.step_rate_hz});
  for (const std::string_view text : {reply.name, std::string_view(m.preset),
                                      std::string_view(m.precision), std::string_view(m.digest)})
    append_text(out, text);
  for (const OutputInfo& output : m.outputs) {
    append_text(out, output.name);
    append_text(out, output.unit);
  }
}

void closed(std::string& out, const SessionSummary& s) {
  out.clear();
  append(out, Header{.type = kClosed});
  for (const std::int64_t n : {s.steps, s.late, s.refused, s.dropped_events}) append(out, n);
  for (const double us : {s.p50_us, s.p99_us, s.p999_us, s.max_us}) append(out, us);
}

void error(std::string& out, const ApiError& error, std::optional<std::int64_t> sequence) {
  out.clear();
  append(out, Header{.type = kError,
                     .flags = static_cast<std::uint16_t>(error.status),
                     .sequence = sequence.value_or(-1)});
  append(out, error.expected.value_or(-1));
  append_text(out, error.code);
  append_text(out, error.message);
  append_text(out, error.field);
}

}  // namespace binary_frames
}  // namespace cortex
