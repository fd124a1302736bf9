#pragma once

#include <string_view>

/// The log facade. Lines go to standard error; nothing on the step path logs.
namespace cortex::log {

enum class Level { debug, info, warn, error, off };

void set_level(Level level);
void debug(std::string_view message);
void info(std::string_view message);
void warn(std::string_view message);
void error(std::string_view message);

}  // namespace cortex::log
