#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

/// The log facade. Lines go to standard error unless configure() says otherwise; nothing on the
/// step path logs.
///
///     log::configure({.json = true, .file = "/var/log/cortex.log"});
///     log::write(log::Level::info, "request", {{"request_id", id}, {"status", 200}});
namespace cortex::log {

enum class Level { debug, info, warn, error, off };

/// A name and a value beside a line's message.
struct Field {
  std::string_view key;
  std::variant<std::string_view, std::int64_t, double> value;
};

struct Options {
  bool json = false;      ///< a JSON object a line: time, level, message and the fields
  std::string file = {};  ///< appended to; empty: standard error
};

/// From now on lines are written by a thread of their own, from a queue of bounded length: neither
/// a full disk nor a pipe that nobody reads holds up whoever logs. False: the file cannot be
/// opened.
bool configure(const Options& options);
/// Writes what is queued, for a second at most.
void flush();
/// Lines that were dropped because the queue was full or could not be written.
std::int64_t lost();

void set_level(Level level);
void write(Level level, std::string_view message, std::initializer_list<Field> fields = {});
inline void debug(std::string_view message) { write(Level::debug, message); }
inline void info(std::string_view message) { write(Level::info, message); }
inline void warn(std::string_view message) { write(Level::warn, message); }
inline void error(std::string_view message) { write(Level::error, message); }

}  // namespace cortex::log
