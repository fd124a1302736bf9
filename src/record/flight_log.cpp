#include "record/flight_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <simdjson.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "record/format.h"

namespace cortex::record {
namespace {

namespace dom = simdjson::dom;

/// Why a log cannot be read; travels as an exception within this file.
struct Corrupt {
  std::string what;
};

template <class T>
T load(std::span<const std::byte> bytes, std::size_t at = 0) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

template <class T>
T field(const dom::element& object, const char* name) {
  T value;
  if (object[name].get(value)) throw Corrupt{fmt::format("the field '{}' is missing", name)};
  return value;
}

std::string text(const dom::element& object, const char* name) {
  return std::string(field<std::string_view>(object, name));
}

std::vector<std::string> texts(const dom::element& object, const char* name) {
  std::vector<std::string> all;
  for (const dom::element item : field<dom::array>(object, name)) {
    std::string_view one;
    if (item.get(one)) throw Corrupt{fmt::format("the field '{}' holds no texts", name)};
    all.emplace_back(one);
  }
  return all;
}

int small(const dom::element& object, const char* name) {
  return static_cast<int>(field<std::int64_t>(object, name));
}

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, FlightLog& log) : bytes_(bytes), log_(log) {}

  void parse() {
    if (bytes_.size() < sizeof(FileHeader) ||
        std::memcmp(bytes_.data(), kFileMagic, sizeof kFileMagic) != 0)
      throw Corrupt{"not a flight log: it does not begin with CORTEXFR"};
    const auto header = load<FileHeader>(bytes_);
    if (header.version != kVersion)
      throw Corrupt{fmt::format("a flight log of version {}, this program reads version {}",
                                header.version, kVersion)};
    at_ = sizeof header;
    while (at_ < bytes_.size())
      if (!take_block()) break;
    if (log_.blocks == 0)
      throw Corrupt{
          fmt::format("nothing in it is whole: {}", log_.cut.value_or("it ends after its header"))};
    for (const auto& [id, pending] : pending_)
      for (const auto& [sequence, step] : pending)
        if (const auto found = index_.find(id); found != index_.end())
          attach(log_.sessions[found->second], step);
  }

 private:
  /// What is wrong with a block that begins at `at`; empty: nothing.
  std::string fault_at(std::size_t at) const {
    const std::size_t left = bytes_.size() - at;
    if (left < sizeof(BlockHeader)) return "its header is cut off";
    const auto header = load<BlockHeader>(bytes_, at);
    if (header.magic != kBlockMagic) return "no block begins there";
    if (header.bytes > left - sizeof header) return "its end is cut off";
    if (header.crc != block_crc(header, bytes_.data() + at + sizeof header))
      return "its checksum differs";
    return {};
  }

  /// Whether some whole block lies beyond `at`: then what is wrong there was written and changed.
  bool more_beyond(std::size_t at) const {
    const std::uint32_t magic = kBlockMagic;
    const std::string_view all(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
    const std::string_view mark(reinterpret_cast<const char*>(&magic), sizeof magic);
    for (at = all.find(mark, at + 1); at != std::string_view::npos; at = all.find(mark, at + 1)) {
      if (bytes_.size() - at < sizeof(BlockHeader)) return false;
      const auto header = load<BlockHeader>(bytes_, at);
      if (header.number > log_.blocks && fault_at(at).empty()) return true;
    }
    return false;
  }

  bool take_block() {
    const auto number = static_cast<std::uint32_t>(log_.blocks);
    if (const std::string fault = fault_at(at_); !fault.empty()) {
      const std::string where = fmt::format("block {} at byte {}: {}", number, at_, fault);
      if (more_beyond(at_)) throw Corrupt{where + ", yet whole blocks follow"};
      log_.cut = where;
      return false;
    }
    const auto header = load<BlockHeader>(bytes_, at_);
    if (header.number != number)
      throw Corrupt{fmt::format("block {} at byte {}: it says that it is block {}", number, at_,
                                header.number)};
    const auto records = bytes_.subspan(at_ + sizeof header, header.bytes);
    for (std::size_t at = 0; at < records.size();) {
      try {
        at += take_record(records.subspan(at));
      } catch (const Corrupt& fault) {
        throw Corrupt{fmt::format("block {}, record at byte {}: {}", number,
                                  at_ + sizeof header + at, fault.what)};
      }
    }
    at_ += sizeof header + header.bytes;
    ++log_.blocks;
    return true;
  }

  /// Its length.
  std::size_t take_record(std::span<const std::byte> rest) {
    if (rest.size() < sizeof(RecordHeader)) throw Corrupt{"cut off"};
    const auto header = load<RecordHeader>(rest);
    if (header.bytes < sizeof header || header.bytes % 8 != 0 || header.bytes > rest.size())
      throw Corrupt{fmt::format("{} bytes of {}", header.bytes, rest.size())};
    const auto body = rest.subspan(sizeof header, header.bytes - sizeof header);
    if (!about_ && header.kind != Kind::about) throw Corrupt{"it comes before the model's"};
    if (log_.ended) throw Corrupt{"it comes after the log's end"};
    switch (header.kind) {
      case Kind::about:
        take_about(body);
        break;
      case Kind::opened:
        take_opened(body);
        break;
      case Kind::closed:
        take_closed(body);
        break;
      case Kind::step:
        take_step(body);
        break;
      case Kind::answer:
        take_answer(body);
        break;
      case Kind::lost:
        log_.lost = within(log_.lost + within(body_of<LostBody>(body).records, "lost"), "lost");
        break;
      case Kind::end:
        log_.ended = true;
        break;
      default:
        throw Corrupt{fmt::format("kind {} is not known", static_cast<int>(header.kind))};
    }
    return header.bytes;
  }

  /// `value`, if a recorder can have written it: a count, a step's number or nanoseconds of a
  /// clock. Sums and differences of two such do not overflow.
  static std::int64_t within(std::int64_t value, const char* what) {
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 4;
    if (value < 0 || value > kMost) throw Corrupt{fmt::format("{}: {}", what, value)};
    return value;
  }

  template <class T>
  static T body_of(std::span<const std::byte> body) {
    if (body.size() < sizeof(T)) throw Corrupt{"its body is too short"};
    return load<T>(body);
  }

  dom::element json(std::span<const std::byte> body) {
    dom::element root;
    if (json_.parse(reinterpret_cast<const char*>(body.data()), body.size()).get(root))
      throw Corrupt{"its text is no JSON"};
    return root;
  }

  void take_about(std::span<const std::byte> body) {
    if (std::exchange(about_, true)) throw Corrupt{"a second model"};
    const dom::element root = json(body);
    log_.cortex = text(root, "cortex");
    log_.wall_ns = within(field<std::int64_t>(root, "wall_ns"), "wall_ns");
    log_.monotonic_ns = within(field<std::int64_t>(root, "monotonic_ns"), "monotonic_ns");
    ModelInfo& model = log_.model;
    model.path = text(root, "model");
    model.digest = text(root, "digest");
    model.kind = text(root, "kind");
    model.preset = text(root, "preset");
    model.precision = text(root, "precision");
    model.backend = text(root, "backend");
    model.bin_ms = field<double>(root, "bin_ms");
    model.step_ms = field<double>(root, "step_ms");
    model.bins_per_step = small(root, "bins_per_step");
    model.context_steps = small(root, "context_steps");
    model.target_offset_ms = field<double>(root, "target_offset_ms");
    for (const dom::element output : field<dom::array>(root, "outputs"))
      model.outputs.push_back({text(output, "name"), text(output, "unit")});
    model.unit_ids = texts(root, "units");
    if (model.bins_per_step < 1 || !(model.step_ms > 0) || !(model.bin_ms > 0))
      throw Corrupt{"no step is that long"};
  }

  void take_opened(std::span<const std::byte> body) {
    const dom::element root = json(body);
    RecordedSession session;
    session.id = field<std::uint64_t>(root, "session");
    session.opened_ns = within(field<std::int64_t>(root, "monotonic_ns"), "monotonic_ns");
    session.options.first_step = within(field<std::int64_t>(root, "first_step"), "first_step");
    session.options.allow_missing_units = field<bool>(root, "allow_missing_units");
    session.options.drop_out_of_step = field<bool>(root, "drop_out_of_step");
    session.options.unit_ids = texts(root, "units");
    if (!index_.emplace(session.id, log_.sessions.size()).second)
      throw Corrupt{fmt::format("session {} is opened again", session.id)};
    log_.sessions.push_back(std::move(session));
  }

  void take_closed(std::span<const std::byte> body) {
    const auto found = index_.find(field<std::uint64_t>(json(body), "session"));
    if (found != index_.end()) log_.sessions[found->second].is_closed = true;
  }

  void take_step(std::span<const std::byte> body) {
    const auto head = body_of<StepBody>(body);
    const std::size_t bytes = std::size_t{head.events} * sizeof(Event);
    if (body.size() != padded(sizeof head + bytes))
      throw Corrupt{fmt::format("a step of {} events in {} bytes", head.events, body.size())};
    const auto found = index_.find(head.session);
    if (found == index_.end()) {
      // Of a session whose opening was lost: nothing can be replayed of it.
      ++log_.lost;
      return;
    }
    RecordedSession& session = log_.sessions[found->second];
    const std::int64_t before =
        session.steps.empty() ? session.options.first_step - 1 : session.steps.back().sequence;
    if (within(head.sequence, "step") - within(head.gap, "gap") <= before)
      throw Corrupt{fmt::format("step {} (gap {}) of session {} after step {}", head.sequence,
                                head.gap, head.session, before)};
    RecordedStep step;
    step.sequence = head.sequence;
    step.gap = head.gap;
    step.best_effort = head.best_effort != 0;
    step.events = body.subspan(sizeof head, bytes);
    auto& pending = pending_[head.session];
    if (const auto early = pending.find(head.sequence); early != pending.end()) {
      answer(step, early->second);
      pending.erase(early);
    }
    session.steps.push_back(step);
  }

  void take_answer(std::span<const std::byte> body) {
    const auto head = body_of<AnswerBody>(body);
    const std::size_t bytes = std::size_t{head.outputs} * sizeof(float);
    if (body.size() != padded(sizeof head + bytes))
      throw Corrupt{fmt::format("an answer of {} outputs in {} bytes", head.outputs, body.size())};
    if (head.status > static_cast<int>(StepStatus::refused) ||
        head.error > static_cast<int>(ErrorCode::internal) + 1)
      throw Corrupt{fmt::format("an answer of status {}, error {}", head.status, head.error)};
    RecordedStep said;
    said.sequence = head.sequence;
    said.answered = true;
    said.status = static_cast<StepStatus>(head.status);
    if (head.error > 0) said.error = static_cast<ErrorCode>(head.error - 1);
    said.outputs = body.subspan(sizeof head, bytes);
    said.submitted_ns = within(head.submitted_ns, "submitted_ns");
    said.started_ns = within(head.started_ns, "started_ns");
    said.finished_ns = within(head.finished_ns, "finished_ns");
    const auto found = index_.find(head.session);
    if (found == index_.end() || !attach(log_.sessions[found->second], said))
      pending_[head.session].insert_or_assign(head.sequence, said);
  }

  static void answer(RecordedStep& step, const RecordedStep& said) {
    step.answered = true;
    step.status = said.status;
    step.error = said.error;
    step.outputs = said.outputs;
    step.submitted_ns = said.submitted_ns;
    step.started_ns = said.started_ns;
    step.finished_ns = said.finished_ns;
  }

  /// False: the step of this answer is not there, or not yet.
  static bool attach(RecordedSession& session, const RecordedStep& said) {
    const auto at = std::lower_bound(
        session.steps.begin(), session.steps.end(), said.sequence,
        [](const RecordedStep& step, std::int64_t sequence) { return step.sequence < sequence; });
    if (at == session.steps.end() || at->sequence != said.sequence) return false;
    answer(*at, said);
    return true;
  }

  const std::span<const std::byte> bytes_;
  FlightLog& log_;
  std::size_t at_ = 0;
  bool about_ = false;
  dom::parser json_;
  std::map<SessionId, std::size_t> index_;
  // Answers that stand before their steps.
  std::map<SessionId, std::map<std::int64_t, RecordedStep>> pending_;
};

/// A file's bytes for as long as someone holds on to them.
class Mapped {
 public:
  Mapped(void* at, std::size_t bytes) : at_(at), bytes_(bytes) {}
  ~Mapped() { ::munmap(at_, bytes_); }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(at_), bytes_}; }

 private:
  void* at_;
  std::size_t bytes_;
};

}  // namespace

const RecordedSession* FlightLog::find(SessionId id) const {
  for (const RecordedSession& session : sessions)
    if (session.id == id) return &session;
  return nullptr;
}

std::vector<std::string> FlightLog::gaps() const {
  std::vector<std::string> lines;
  if (cut)
    lines.push_back(fmt::format("the log was cut off: {}", *cut));
  else if (!ended)
    lines.push_back(
        "the log has no end: its server was killed, its disk was full or it still runs");
  if (!lines.empty()) lines.back() += "; what came after its last sync is not in it";
  if (lost > 0)
    lines.push_back(fmt::format("{} steps and answers were lost while it was recorded", lost));
  return lines;
}

std::vector<Event> events_of(const RecordedStep& step) {
  std::vector<Event> events(step.events.size() / sizeof(Event));
  if (!events.empty()) std::memcpy(events.data(), step.events.data(), step.events.size());
  return events;
}

std::vector<float> outputs_of(const RecordedStep& step) {
  std::vector<float> outputs(step.outputs.size() / sizeof(float));
  if (!outputs.empty()) std::memcpy(outputs.data(), step.outputs.data(), step.outputs.size());
  return outputs;
}

Result<FlightLog> parse_flight_log(std::span<const std::byte> bytes, const std::string& name) {
  FlightLog log;
  log.name = name;
  try {
    Parser(bytes, log).parse();
  } catch (const Corrupt& fault) {
    return Error{ErrorCode::corrupt_data, fmt::format("{}: {}", name, fault.what), "file"};
  }
  return log;
}

Result<FlightLog> read_flight_log(const std::string& path) {
  const auto failed = [&](ErrorCode code) {
    return Error{code, fmt::format("{}: {}", path, std::strerror(errno)), "file"};
  };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return failed(errno == ENOENT ? ErrorCode::not_found : ErrorCode::io_error);
  struct stat about {};
  void* at = MAP_FAILED;
  if (::fstat(fd, &about) == 0 && about.st_size > 0)
    at = ::mmap(nullptr, static_cast<std::size_t>(about.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
  ::close(fd);
  if (about.st_size == 0)
    return Error{ErrorCode::corrupt_data, path + ": not a flight log: it is empty", "file"};
  if (at == MAP_FAILED) return failed(ErrorCode::io_error);
  const auto mapped = std::make_shared<Mapped>(at, static_cast<std::size_t>(about.st_size));
  auto log = parse_flight_log(mapped->bytes(), path);
  if (log) log->memory = mapped;
  return log;
}

}  // namespace cortex::record
