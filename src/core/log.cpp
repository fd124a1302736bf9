#include "core/log.h"

#include <fcntl.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <mutex>

#include "core/json_writer.h"
#include "core/log_writer.h"

namespace cortex::log {
namespace {

constexpr char kPattern[] = "%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v";

/// Hands lines to a Writer.
class QueueSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit QueueSink(int fd) : writer_(fd) {}
  Writer& writer() { return writer_; }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    writer_.put({line.data(), line.size()});
  }
  void flush_() override {}

  Writer writer_;
};

struct Log {
  std::shared_ptr<spdlog::logger> logger = [] {
    auto l = spdlog::stderr_color_mt("cortex");
    l->set_pattern(kPattern);
    return l;
  }();
  std::shared_ptr<QueueSink> queue;
  bool json = false;
};

Log& instance() {
  static Log log;
  return log;
}

constexpr spdlog::level::level_enum kLevels[] = {spdlog::level::debug, spdlog::level::info,
                                                 spdlog::level::warn, spdlog::level::err,
                                                 spdlog::level::off};

void write_json(spdlog::logger& logger, spdlog::level::level_enum level, std::string_view message,
                std::initializer_list<Field> fields) {
  JsonWriter w;
  w.begin_object().key("message").value(message);
  for (const Field& field : fields) {
    w.key(field.key);
    std::visit([&](const auto& value) { w.value(value); }, field.value);
  }
  w.end_object();
  // The pattern wrote the opening brace, the time and the level.
  logger.log(level, "{}", std::string_view(w.text()).substr(1));
}

void write_text(spdlog::logger& logger, spdlog::level::level_enum level, std::string_view message,
                std::initializer_list<Field> fields) {
  std::string line(message);
  for (const Field& field : fields) {
    line += ' ';
    line += field.key;
    line += '=';
    std::visit([&](const auto& value) { fmt::format_to(std::back_inserter(line), "{}", value); },
               field.value);
  }
  logger.log(level, "{}", line);
}

}  // namespace

bool configure(const Options& options) {
  Log& log = instance();
  int fd = STDERR_FILENO;
  if (!options.file.empty()) {
    fd = ::open(options.file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0) return false;
  }
  log.json = options.json;
  log.queue = std::make_shared<QueueSink>(fd);
  auto logger = std::make_shared<spdlog::logger>("cortex", log.queue);
  logger->set_level(log.logger->level());
  // Pattern flags in UTC, as a line without a zone would be read.
  logger->set_formatter(std::make_unique<spdlog::pattern_formatter>(
      options.json ? "{\"time\":\"%Y-%m-%dT%H:%M:%S.%eZ\",\"level\":\"%l\",%v" : kPattern,
      options.json ? spdlog::pattern_time_type::utc : spdlog::pattern_time_type::local));
  log.logger = std::move(logger);
  return true;
}

void flush() {
  if (auto& queue = instance().queue) queue->writer().flush(std::chrono::milliseconds(1000));
}

std::int64_t lost() {
  const auto& queue = instance().queue;
  return queue ? queue->writer().lost() : 0;
}

void set_level(Level level) { instance().logger->set_level(kLevels[static_cast<int>(level)]); }

void write(Level level, std::string_view message, std::initializer_list<Field> fields) {
  Log& log = instance();
  const auto to = kLevels[static_cast<int>(level)];
  if (!log.logger->should_log(to)) return;
  log.json ? write_json(*log.logger, to, message, fields)
           : write_text(*log.logger, to, message, fields);
}

}  // namespace cortex::log
