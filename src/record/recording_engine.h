#pragma once

#include <cortex/engine.h>

#include <memory>

#include "record/recorder.h"

namespace cortex::record {

/// `engine`, with every session and its steps and answers in `recorder`. Stateless requests are not
/// recorded. `steps_at_once`: most steps that wait or are in flight together.
std::unique_ptr<Engine> record_sessions(std::unique_ptr<Engine> engine,
                                        std::unique_ptr<Recorder> recorder, int steps_at_once);

}  // namespace cortex::record
